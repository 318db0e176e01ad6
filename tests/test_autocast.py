"""What autocast does to the tensors of a convolution, as torch's own convolution shows it."""

import pytest
import torch

from atrous import functional, nn
from atrous._autocast import autocasts, computed_dtype, converted, outside

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


def test_a_context_outside():
    x = torch.zeros(1)
    with torch.autocast("cpu", torch.bfloat16):
        with outside(x):
            assert not autocasts(x)
        assert autocasts(x)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"stride": 2}, {"dilation": 2, "backend": "aten"}], ids=str)
def test_eager_and_compiled_round_alike(options, low):
    torch.compiler.reset()
    call = torch.randn(2, 3, 20, 20), torch.randn(64, 3, 3, 3), torch.randn(64)
    run = torch.compile(lambda *call: functional.conv2d(*call, **options), backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", low):
        expected = functional.conv2d(*call, **{**options, "backend": "reference"})
        results = functional.conv2d(*call, **options), run(*call)
    for result in results:
        assert result.dtype == low
        assert (result != expected).float().mean() < 0.01  # another order of summation, seldom seen after rounding


def test_an_exported_layer_converts_nothing():
    program = torch.export.export(nn.Conv2d(4, 4, 3, groups=4), (torch.randn(1, 4, 9, 9),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "atrous.tap_conv.default" in targets
    assert not targets & {"aten.to.dtype", "aten._to_copy.default", "aten._assert_tensor_metadata.default"}
