import copy
import pickle

import pytest
import torch

import atrous
from atrous import ShapeError, nn

PAIRS = (
    (nn.ConvTranspose1d, torch.nn.ConvTranspose1d),
    (nn.ConvTranspose2d, torch.nn.ConvTranspose2d),
    (nn.ConvTranspose3d, torch.nn.ConvTranspose3d),
)
SIZES = {1: (16,), 2: (6, 7), 3: (3, 4, 5)}
OPTIONS = (
    {},
    {"stride": 2, "padding": 1, "output_padding": 1, "groups": 4},
    {"groups": 2, "dilation": 2, "bias": False},
)


def twin(ours, theirs, **options):
    a, b = ours(4, 4, 3, **options), theirs(4, 4, 3, **options)
    b.load_state_dict(a.state_dict())
    return a, b


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_torchs_twin(ours, theirs, options):
    a, b = twin(ours, theirs, **options)
    assert isinstance(a, theirs)
    assert repr(a) == repr(b)
    x = torch.randn(2, 4, *SIZES[a.ndim])
    torch.testing.assert_close(a(x), b(x))
    torch.testing.assert_close(a(x[0]), b(x[0]))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_size_that_is_asked_for(ours, theirs):
    a, b = twin(ours, theirs, stride=3, groups=4)
    x = torch.randn(2, 4, *SIZES[a.ndim])
    size = [3 * n + 1 for n in SIZES[a.ndim]]
    assert list(a(x, output_size=size).shape[2:]) == size
    torch.testing.assert_close(a(x, output_size=size), b(x, output_size=size))
    with pytest.raises(ValueError, match="requested an output size"):
        a(x, output_size=[1] * a.ndim)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_life_of_a_module(ours, theirs):
    torch.compiler.reset()
    layer, _ = twin(ours, theirs, stride=2, groups=4)
    x = torch.randn(2, 4, *SIZES[layer.ndim])
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    shapes = ({0: torch.export.Dim("batch", min=1), **dict.fromkeys(range(2, x.ndim), torch.export.Dim.AUTO)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    bigger = torch.randn(3, 4, *(n + 3 for n in SIZES[layer.ndim]))
    torch.testing.assert_close(program.module()(bigger), layer(bigger))


def test_depthwise_images_run_on_taps():
    text = atrous.explain(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8), torch.randn(1, 8, 5, 5))
    assert text.startswith("conv_transpose2d of (1, 8, 5, 5) by (8, 1, 4, 4) runs on 'cpu'")


def test_messages():
    with pytest.raises(ShapeError, match="conv_transpose2d: got 3 input channels"):
        nn.ConvTranspose2d(4, 4, 3)(torch.zeros(1, 3, 5, 5))
