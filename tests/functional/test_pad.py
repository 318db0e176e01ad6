import numpy as np
import pytest
import torch

from atrous import ShapeError
from atrous.functional import reflect_pad


@pytest.mark.parametrize("margin", [0, 1, 4, 13])
@pytest.mark.parametrize("size", [(2, 3), (5, 2), (7, 9)])
def test_as_numpy(size, margin):
    x = torch.randn(2, 3, *size)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (margin, margin), (margin, margin)], mode="reflect")
    np.testing.assert_array_equal(reflect_pad(x, margin).numpy(), expected)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 1, 8), (1, 3, 8, 0)])
def test_message(shape):
    with pytest.raises(ShapeError, match="H and W of at least 2 pixels"):
        reflect_pad(torch.zeros(shape), 1)


def test_a_negative_margin():
    with pytest.raises(ShapeError, match="a margin of -1"):
        reflect_pad(torch.zeros(1, 1, 4, 4), -1)


def test_compile_export_vmap_gradcheck():
    x = torch.randn(1, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    run = torch.nn.ReflectionPad2d(5)
    expected = run(x)

    class Pad(torch.nn.Module):
        def forward(self, image):
            return reflect_pad(image, 5)

    torch.testing.assert_close(torch.compile(Pad(), fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(Pad(), (x,)).module()(x), expected)
    torch.testing.assert_close(torch.vmap(Pad())(x[None])[0], expected)
    assert torch.autograd.gradcheck(Pad(), x)
