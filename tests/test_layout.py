"""How the numbers of a tensor lie."""

import pytest
import torch

from atrous._layout import lies_last


@pytest.mark.parametrize(("shape", "last"), [((2, 3, 8), True), ((2, 3, 4, 5), True), ((2, 1, 4, 5), False)])
def test_channels_that_lie_last(shape, last):
    image = torch.zeros(shape)
    assert not lies_last(image)
    moved = image.movedim(1, -1).contiguous().movedim(-1, 1)
    assert lies_last(moved) == last  # one channel lies so by chance
    assert not lies_last(moved[..., ::2])
