"""What autocast does to the tensors of a convolution, as torch's own convolution shows it."""

import pytest
import torch

from atrous._autocast import autocasts, computed_dtype, converted

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_torch_converts(dtype, low):
    x = torch.ones(1, 1, 3, dtype=dtype)
    with torch.autocast("cpu", low):
        assert autocasts(x)
        assert converted(x).dtype == computed_dtype(x) == torch.conv1d(x, x).dtype == low
        with torch.autocast("cpu", enabled=False):
            assert converted(x) is x


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int32], ids=str)
def test_what_autocast_leaves_alone(dtype):
    x = torch.ones(3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert converted(x) is x


def test_a_device_without_autocast():
    x = torch.zeros(3, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert not autocasts(x)
        assert computed_dtype(x) == torch.float32
