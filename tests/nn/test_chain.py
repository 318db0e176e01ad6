import re

import pytest
import torch

from atrous import UnsupportedModule, nn
from atrous.nn import Conv2d
from atrous.nn.chain import Chain


def chain():
    return Chain(
        Conv2d(1, 2, 3, dilation=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        Conv2d(2, 1, (3, 1), padding="same"),
        torch.nn.MaxPool2d(3, stride=(1, 2)),
    )


@pytest.mark.parametrize("size", [(20, 21), (23, 18)])
def test_geometry_predicts_sizes(size):
    layers = chain()
    # rows: 5 + 1 + 2 * 2 + 2 * 2, columns: 5 + 1 + 0 + 2 * 2
    assert layers.geometry.kernel == (14, 10)
    assert layers.geometry.stride == (2, 4)
    assert layers.geometry.output_size(size) == layers(torch.zeros(1, 1, *size)).shape[2:]


def test_a_slice_is_a_plain_sequential_with_the_same_layers():
    layers = chain()
    part = layers[:3]
    assert type(part) is torch.nn.Sequential
    assert part[0] is layers[0]
    assert list(part._modules) == ["0", "1", "2"]
    assert isinstance(layers[-1], torch.nn.MaxPool2d)


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.relu, "relu", lambda: None])
@pytest.mark.parametrize("kind", [nn.Cascade, nn.DilatedStack])
def test_an_activation_is_what_makes_one(kind, activation):
    message = f"{kind.__name__}: activation: got {activation!r}, expected what makes a module when called"
    with pytest.raises(UnsupportedModule, match=re.escape(message)):
        kind(4, 3, 2, 2, activation=activation)
