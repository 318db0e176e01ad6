import pytest
import torch

from atrous import ShapeError, trace_footprint
from atrous.models import DenseMap


@pytest.mark.parametrize(("outputs", "channels"), [(1, 3), (4, 1)])
def test_shapes(outputs, channels):
    net = DenseMap(outputs, channels, 1 / 16)
    image = torch.zeros(2, channels, 41, 30)
    assert net(image).shape == (2, outputs, 41, 30)
    assert net.features(image).shape == (2, outputs, 11, 8)


def test_it_reads_what_dilation_small_reads():
    net = DenseMap(1, 1, 1 / 16)
    footprint = trace_footprint(net.eval(), torch.zeros(1, 1, 400, 400))
    # The up-sampling reads two maps.
    assert (net.geometry.kernel, footprint.receptive_field) == ((322, 322), (326, 326))


def test_values_below_0_can_be_learned():
    """One map alone would be cut off by the context module's last ReLU."""
    net = DenseMap(1, 1, 1 / 8)
    image = torch.randn(1, 1, 32, 32)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        (net(image) + 2).square().mean().backward()
        optimizer.step()
    assert (net(image) + 2).square().mean() < 0.1


def test_messages():
    with pytest.raises(ShapeError, match="num_classes=0"):
        DenseMap(1, hidden=0)
