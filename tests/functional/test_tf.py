import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError
from atrous.functional import tf

STORED = json.loads((Path(__file__).parent / "tensorflow.json").read_text(encoding="utf-8"))
"""What TensorFlow computes and refuses; `tests/oracles/make_tf_fixtures.py` writes it."""


def _name(case):
    shapes = case.get("shapes") or [np.shape(one) for one in case["tensors"]]
    return f"{case['function']}-{shapes}-{case['options']}"


def call(case, tensors, **options):
    return getattr(tf, case["function"])(*tensors, **{**case["options"], **options})


@pytest.mark.parametrize("case", STORED["accepted"], ids=_name)
def test_what_tensorflow_computes(case):
    tensors = [torch.tensor(one, dtype=torch.float64) for one in case["tensors"]]
    expected = torch.tensor(case["result"], dtype=torch.float64).reshape(case["shape"])
    torch.testing.assert_close(call(case, tensors), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", STORED["refused"], ids=_name)
def test_what_tensorflow_refuses(case):
    with pytest.raises(
        (ShapeError, GeometryError), match=f"^{case['function']}: |^space_to_|^batch_to_|^padding: |^conv"
    ):
        call(case, [torch.zeros(shape) for shape in case["shapes"]])


def test_every_function_is_stored():
    public = {
        name for name, one in vars(tf).items() if getattr(one, "__module__", "") == tf.__name__ and name[0] != "_"
    }
    for part in ("accepted", "refused"):
        assert {case["function"] for case in STORED[part]} == public


def padded(n, k, stride, dilation):
    """Return the padding of 'SAME' by the sentences of TensorFlow's guide, for one axis."""
    extent = (k - 1) * dilation + 1
    total = max(extent - stride, 0) if n % stride == 0 else max(extent - n % stride, 0)
    return total // 2, total - total // 2


axis = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))  # size, kernel, stride or dilation


@settings(deadline=None, max_examples=40)
@given(axes=st.lists(axis, min_size=1, max_size=3), strided=st.booleans())
def test_same_follows_the_size(axes, strided):
    size, kernel, steps = zip(*axes, strict=True)
    ones = (1,) * len(axes)
    strides, dilations = (steps, ones) if strided else (ones, steps)
    x, w = torch.randn(2, *size, 2, dtype=torch.float64), torch.randn(*kernel, 2, 3, dtype=torch.float64)
    pads = [side for one in zip(size, kernel, strides, dilations, strict=True) for side in padded(*one)[::-1]][::-1]
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(axes)]
    wide = F.pad(x.movedim(-1, 1), pads)
    expected = conv(wide, w.movedim((-1, -2), (0, 1)), stride=strides, dilation=dilations).movedim(1, -1)
    result = tf.convolution(x, w, strides, "SAME", dilations=dilations)
    torch.testing.assert_close(result, expected)
    assert result.shape[1:-1] == tuple(-(-n // s) for n, s in zip(size, strides, strict=True))


@pytest.mark.parametrize(("padding", "kernel"), [("SAME", (3, 3)), ("SAME", (2, 4)), ("VALID", (3, 2))])
@pytest.mark.parametrize("rate", [1, 2, (3, 1)])
def test_transposed_is_the_gradient(padding, kernel, rate):
    image = torch.zeros(2, 9, 8, 3, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(*kernel, 3, 2, dtype=torch.float64)
    output = tf.atrous_conv2d(image, filters, rate, padding)
    seed = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, image, seed)
    torch.testing.assert_close(tf.atrous_conv2d_transpose(seed, filters, image.shape, rate, padding), expected)


@pytest.mark.parametrize("case", STORED["accepted"][::3], ids=_name)
def test_derivatives(case):
    leaves = [torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in case["tensors"]]
    assert torch.autograd.gradcheck(lambda *leaves: call(case, leaves), leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["atrous_conv2d", "atrous_conv2d_transpose", "space_to_batch_nd"])
def test_compile_and_other_layouts(name):
    torch.compiler.reset()
    case = next(case for case in STORED["accepted"] if case["function"] == name)
    tensors = [torch.tensor(one, dtype=torch.float32) for one in case["tensors"]]
    expected = call(case, tensors)
    compiled = torch.compile(lambda *tensors: call(case, tensors), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), expected)
    turned = [one.movedim(0, -1).contiguous().movedim(-1, 0) for one in tensors]
    torch.testing.assert_close(call(case, turned), expected)
    assert call(case, [tensors[0][:0], *tensors[1:]], **_empty(case)).shape == (0, *expected.shape[1:])


def _empty(case):
    shape = case["options"].get("output_shape")
    return {"output_shape": [0, *shape[1:]]} if shape else {}


IMAGE, KERNEL = torch.zeros(1, 5, 5, 4), torch.zeros(3, 3, 4, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("atrous_conv2d", (IMAGE, KERNEL, 0, "SAME"), GeometryError, "atrous_conv2d: rate: got (0, 0), expected integ"),
        ("atrous_conv2d", (IMAGE, KERNEL, 2.0, "SAME"), GeometryError, "atrous_conv2d: rate: got 2.0, expected int"),
        ("atrous_conv2d", (IMAGE, KERNEL, 2, "same"), GeometryError, "padding: got 'same', expected 'SAME', 'VALID'"),
        ("atrous_conv2d", (IMAGE, KERNEL, 2, 1), GeometryError, "padding: got 1, expected a pair (before"),
        ("atrous_conv2d", (IMAGE, KERNEL, 2, [[0, 0]] * 2), GeometryError, "at least 0 for each of 4 axes"),
        ("atrous_conv2d", (IMAGE, KERNEL, 2, [[1, 1]] * 4), GeometryError, "(0, 0) for batch and channels"),
        ("atrous_conv2d", (IMAGE, KERNEL[0], 2, "SAME"), ShapeError, "filters: got shape (3, 4, 2), expected (K_h,"),
        ("atrous_conv2d", (IMAGE[0], KERNEL, 2, "SAME"), ShapeError, "input: got shape (5, 5, 4), expected 4 axes"),
        ("atrous_conv2d", (IMAGE, KERNEL[:, :, :3], 2, "SAME"), ShapeError, "got 4 channels and filters (3, 3, 3, 2)"),
        ("atrous_conv2d", (IMAGE, KERNEL[:, :, :0], 2, "SAME"), ShapeError, "expected a multiple of 0 channels"),
        ("atrous_conv2d", (IMAGE, KERNEL, 3, "VALID"), ShapeError, "expected at least the extent"),
        ("atrous_conv2d", (IMAGE, KERNEL.double(), 2, "SAME"), ShapeError, "expected one dtype"),
        (
            "atrous_conv2d_transpose", (IMAGE[..., :2], KERNEL, (1, 6, 5, 4), 2, "SAME"), ShapeError,
            "output_shape: got (1, 6, 5, 4), expected (1, 5, 5, 4), of which atrous_conv2d makes (1, 5, 5, 2)",
        ),
        (
            "atrous_conv2d_transpose", (IMAGE, KERNEL, (1, 5, 5, 4), 2, "SAME"), ShapeError,
            "got 4 channels and filters (3, 3, 4, 2), expected 2",
        ),
        (
            "atrous_conv2d_transpose", (IMAGE[..., :2], KERNEL, (1, 5, 5, 4), 2, [[0, 0]] * 4), GeometryError,
            "padding: got [[0, 0], [0, 0], [0, 0], [0, 0]], expected 'SAME' or 'VALID'",
        ),
        ("convolution", (IMAGE, KERNEL, 2, "SAME", 2), GeometryError, "got strides (2, 2) and dilations (2, 2)"),
        ("convolution", (IMAGE, KERNEL[0, 0], 1, "SAME"), ShapeError, "expected (*K, C / groups, D) with one to three"),
        ("convolution", (IMAGE, KERNEL, (2, 1, 1, 2)), GeometryError, "convolution: strides: got 4 entries"),
        ("depthwise_conv2d", (IMAGE, KERNEL, (1, 1, 2, 1), "SAME"), GeometryError, "strides: got (1, 1, 2, 1), exp"),
        ("depthwise_conv2d", (IMAGE, KERNEL, 2, "SAME"), GeometryError, "strides: got 2, expected (1, s, s, 1)"),
        (
            "depthwise_conv2d", (IMAGE, KERNEL, (1, 2, 2, 1), "SAME", 2), GeometryError,
            "expected one of them to be 1; atrous.functional.conv2d takes both",
        ),
        ("depthwise_conv2d", (IMAGE[..., :3], KERNEL, (1, 1, 1, 1), "SAME"), ShapeError, "got 3 channels and a filter"),
        ("space_to_batch_nd", (IMAGE, 2, [[0, 0]] * 2), GeometryError, "block_shape: got 2, expected a sequence of"),
        ("space_to_batch_nd", (IMAGE, [], []), GeometryError, "block_shape: got [], expected a sequence of integers"),
        ("space_to_batch_nd", (IMAGE, [2, 2], [[0, 0]]), GeometryError, "paddings: got [[0, 0]], expected a pair"),
        ("batch_to_space_nd", (IMAGE[0, 0], [1, 1], [[0, 0]] * 2), ShapeError, "got shape (5, 4) and a block of 2"),
    ],
)  # fmt: skip
def test_messages(name, arguments, error, message):
    named = {} if len(arguments) < 5 or "transpose" in name else {"dilations": arguments[4]}
    with pytest.raises(error, match=re.escape(message)):
        getattr(tf, name)(*(arguments[:4] if named else arguments), **named)
