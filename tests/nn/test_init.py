import pytest
import torch

from atrous import ShapeError
from atrous.nn.init import identity_


def test_basic_formula():
    weight = identity_(torch.empty(3, 3, 3, 3), classes=3)
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(torch.nn.functional.conv2d(x, weight, padding=1), x)


def test_large_chain_is_the_identity_and_every_layer_keeps_the_sums():
    classes, x = 4, torch.randn(1, 4, 5, 5, dtype=torch.float64)
    y = x
    for width_in, width_out in ((1, 2), (2, 2), (2, 4), (4, 16), (16, 16), (16, 1)):
        weight = torch.empty(width_out * classes, width_in * classes, 3, 3, dtype=torch.float64)
        y = torch.nn.functional.conv2d(y, identity_(weight, classes), padding=1)
        torch.testing.assert_close(y.unflatten(1, (classes, -1)).sum(2), x)
    torch.testing.assert_close(y, x)


def test_formula_entry_by_entry():
    """Equation 5: C / D where floor(a C / A) = floor(b C / D) at the centre, noise elsewhere."""
    classes, outputs, inputs = 2, 6, 4
    weight = identity_(torch.empty(outputs, inputs, 3), classes, std=0.01)
    noise = []
    for b in range(outputs):
        for a in range(inputs):
            for t in range(3):
                value = weight[b, a, t].item()
                if t == 1 and a * classes // inputs == b * classes // outputs:
                    assert value == pytest.approx(classes / outputs)
                else:
                    noise.append(value)
    assert 0 < max(map(abs, noise)) < 5 * 0.01 * classes / outputs


@pytest.mark.parametrize(("shape", "classes"), [((4, 4, 2), 2), ((4, 3, 3), 2), ((3, 4, 3), 2), ((4, 4, 3), 0)])
def test_message(shape, classes):
    with pytest.raises(ShapeError, match="expected an odd kernel and both channel counts divisible"):
        identity_(torch.empty(shape), classes)
