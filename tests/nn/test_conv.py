import copy
import io
import pickle

import numpy as np
import pytest
import torch

from atrous import GeometryError, ShapeError, UnsupportedModule, nn
from atrous.nn import (
    AdaptiveDilationConv2d,
    Conv2d,
    CPConv2d,
    KroneckerConv2d,
    SeparableConv2d,
    SwitchableAtrousConv2d,
)

PAIRS = ((nn.Conv1d, torch.nn.Conv1d), (nn.Conv2d, torch.nn.Conv2d), (nn.Conv3d, torch.nn.Conv3d))
SIZES = {1: (16,), 2: (10, 11), 3: (6, 7, 8)}


def twin(ours, theirs, *args, **kwargs):
    a = ours(*args, **kwargs)
    b = theirs(*args, **kwargs)
    b.load_state_dict(a.state_dict())
    return a, b


@pytest.mark.parametrize(
    "options", [{}, {"padding": "same", "dilation": 2}, {"stride": 2, "groups": 2, "bias": False}], ids=str
)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_torchs_twin(ours, theirs, options):
    a, b = twin(ours, theirs, 4, 6, 3, **options)
    assert isinstance(a, theirs)
    assert repr(a) == repr(b)
    x = torch.randn(2, 4, *SIZES[a.ndim])
    torch.testing.assert_close(a(x), b(x))
    torch.testing.assert_close(a(x[0]), b(x[0]))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_padding_modes(ours, theirs, mode):
    a, b = twin(ours, theirs, 2, 2, 3, padding=2, dilation=2, padding_mode=mode)
    x = torch.randn(1, 2, *SIZES[a.ndim])
    torch.testing.assert_close(a(x), b(x))


@pytest.mark.parametrize(
    ("cls", "padding"), [(nn.Conv1d, "causal"), (nn.Conv2d, ((2, 0), "same")), (nn.Conv3d, ("causal", 1, 1))]
)
def test_life_of_a_module(cls, padding):
    layer = cls(2, 3, 3, padding=padding, dilation=1)
    x = torch.randn(2, 2, *SIZES[layer.ndim])
    expected = layer(x)
    assert f"padding={padding}" in repr(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    batch = torch.export.Dim("batch", min=1)
    shapes = ({0: batch, **dict.fromkeys(range(2, x.ndim), torch.export.Dim.AUTO)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    bigger = torch.randn(3, 2, *(n + 3 for n in SIZES[layer.ndim]))
    torch.testing.assert_close(program.module()(bigger), layer(bigger))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    layer.load_state_dict(torch.load(buffer, weights_only=True))


def test_a_changed_dilation_counts():
    """Converters rewrite `dilation` in place; the module must not remember the old one."""
    layer = nn.Conv2d(1, 1, 3, padding="causal")
    layer.dilation = (4, 4)
    assert layer(torch.zeros(1, 1, 9, 9)).shape == (1, 1, 9, 9)


def test_torchs_hook_for_other_weights_keeps_our_paddings():
    layer = nn.Conv1d(1, 1, 2, padding="causal", bias=False)
    doubled = layer._conv_forward(torch.ones(1, 1, 4), 2 * layer.weight, None)
    torch.testing.assert_close(doubled, 2 * layer(torch.ones(1, 1, 4)))


@pytest.mark.parametrize("padding", [np.int64(1), (np.int64(1),), [1, 1], ((1, 1), (1, 1)), (1,)], ids=str)
def test_integers_of_any_make(padding):
    layer = nn.Conv2d(1, 1, 3, padding=padding)
    assert "padding" in repr(layer)
    assert layer(torch.zeros(1, 1, 5, 5)).shape == (1, 1, 5, 5)


def test_dtype_and_device():
    layer = nn.Conv1d(1, 1, 3, padding="causal", dtype=torch.float64, device="meta")
    assert (layer.weight.dtype, layer.weight.device.type) == (torch.float64, "meta")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Conv1d(1, 1, 3, padding=(1, 2)), GeometryError, r"write \(\(1, 2\),\)"),
        (lambda: nn.Conv2d(1, 1, 3, padding="full"), GeometryError, "got 'full'"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), GeometryError, "stride: got"),
        (lambda: nn.Conv2d(1, 1, 3, dilation=0), GeometryError, "dilation: got"),
        (lambda: nn.Conv1d(1, 1, 3, dilation=0, padding="causal"), GeometryError, "dilation: got"),
        (lambda: nn.Conv1d(1, 1, 3)(torch.zeros(1, 2, 8)), ShapeError, "conv1d: got 2 input channels"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


SOURCES = {
    "separable": (lambda layer: SeparableConv2d.from_conv(layer, 2), "SeparableConv2d.from_conv"),
    "cp": (lambda layer: CPConv2d.from_conv(layer, 2), "CPConv2d.from_conv"),
    "kronecker": (
        lambda layer: KroneckerConv2d.from_conv(layer, [(2, 2, 1, 1), (2, 2, 3, 3)]),
        "KroneckerConv2d.from_",
    ),
    "switchable": (SwitchableAtrousConv2d.from_conv, "SwitchableAtrousConv2d.from_conv"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_layer_with_a_forward_of_its_own_is_no_source(name):
    make, where = SOURCES[name]
    for layer in (AdaptiveDilationConv2d(4, 4, 3, rate=3), torch.nn.Linear(2, 2)):
        with pytest.raises(
            UnsupportedModule, match=rf"{where}.*: got a {type(layer).__name__}, expected a torch.nn.Conv2d"
        ):
            make(layer)
    assert make(Conv2d(4, 4, 3, padding="same"))(torch.zeros(1, 4, 5, 5)).shape == (1, 4, 5, 5)


@pytest.mark.parametrize("name", ["separable", "cp", "kronecker"])
@pytest.mark.parametrize("fill", [0.0, float("nan"), None])
def test_a_weight_whose_factors_cannot_be_found_or_learn_is_refused(name, fill):
    make, where = SOURCES[name]
    layer = Conv2d(4, 4, 3, device="meta" if fill is None else None)
    if fill is not None:
        torch.nn.init.constant_(layer.weight, fill)
    with pytest.raises(UnsupportedModule, match=rf"{where}.*: got a weight without values, .* or of zeros alone"):
        make(layer)
