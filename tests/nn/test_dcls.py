"""The layers, and every fault of the `dcls` package as a test of what is wanted instead."""

import copy
import io
import pickle

import pytest
import torch

from atrous import GeometryError, ShapeError, functional, nn, trace_footprint
from atrous.analysis import cost

pytestmark = pytest.mark.usefixtures("always_taps")

LAYERS = {
    nn.Dcls1d: {"dilated_kernel_size": 7},
    nn.Dcls2d: {"dilated_kernel_size": (4, 5)},
    nn.Dcls3d: {"dilated_kernel_size": (3, 4, 5)},
    nn.Dcls2_1d: {"dense_kernel_size": 3, "dilated_kernel_size": 6},
    nn.Dcls3_1d: {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5},
    nn.Dcls3_2d: {"dense_kernel_size": 3, "dilated_kernel_size": (4, 5)},
}
INTERPOLATIONS = ("bilinear", "triangle", "gaussian", "bicubic")
PIXELS = {1: (16,), 2: (10, 11), 3: (6, 7, 8)}

every_layer = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
every_interpolation = pytest.mark.parametrize("interpolation", INTERPOLATIONS)
every_version = pytest.mark.parametrize("version", ["v0", "v1", "max", "gauss"])


def make(cls=nn.Dcls2d, inputs=4, outputs=6, count=3, **options):
    return cls(inputs, outputs, count, **{**LAYERS[cls], **options})


def image(layer, batch=2):
    return torch.randn(batch, layer.in_channels, *PIXELS[layer.ndim])


def one_element(position, size, version="v0", cls=nn.Dcls1d):
    """Return a layer of one element, whose input of one pixel shows its kernel."""
    layer = cls(1, 1, 1, dilated_kernel_size=size, bias=False, version=version)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.P.copy_(torch.tensor(position).view_as(layer.P))
    return layer


@every_interpolation
@pytest.mark.parametrize("groups", [1, 2])
@every_layer
def test_the_functional(cls, groups, interpolation):
    layer = make(cls, groups=groups, interpolation=interpolation, padding="same", stride=2, dilation=2)
    x = image(layer)
    verb = getattr(functional, f"dcls_conv{layer.ndim}d")
    options = {"dilated_kernel_size": LAYERS[cls]["dilated_kernel_size"], "interpolation": interpolation}
    options |= {"padding": "same", "stride": 2, "dilation": 2, "groups": groups}
    expected = verb(x, layer.weight, layer.P, layer.SIG, layer.bias, **options)
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x[0]), expected[0])
    assert list(layer.state_dict()) == ["weight", "P", *(["SIG"] if layer.SIG is not None else []), "bias"]
    merged = layer.merge()
    assert isinstance(merged, getattr(torch.nn, f"Conv{layer.ndim}d"))
    assert torch.equal(merged.weight, layer.kernel())
    torch.testing.assert_close(merged(x), expected)


def test_arguments_in_the_order_of_the_package():
    layer = nn.Dcls2d(4, 6, 3, 2, 1, (5, 7), 2, False, "reflect", "gauss")
    assert repr(layer) == (
        "Dcls2d(4, 6, kernel_count=3, dilated_kernel_size=(5, 7), interpolation='gaussian', stride=(2, 2), "
        "padding=1, groups=2, padding_mode='reflect', bias=False)"
    )
    layer = nn.Dcls3_1d(4, 6, 3, 2, 1, (3, 2), 5, 2, False, "zeros", "max")
    assert layer.weight.shape == (6, 2, 3, 2, 3)
    assert (layer.interpolation, layer.dense_kernel_size, layer.dilated_kernel_size) == ("triangle", (3, 2), (5,))


def test_merging_gives_torchs_module_where_it_can():
    assert type(make(padding=1, padding_mode="reflect").merge()) is torch.nn.Conv2d
    layer = make(padding="same", padding_mode="reflect").eval()  # 2 before and 1 after
    assert type(layer.merge()) is nn.Conv2d
    assert not layer.merge().training
    x = image(layer)
    torch.testing.assert_close(layer.merge()(x), layer(x))


@every_layer
def test_first_values(cls):
    torch.manual_seed(0)
    layer = make(cls, 64, 64, 4, version="gauss")
    bound = layer.weight[0].numel() ** -0.5
    for tensor in (layer.weight, layer.bias):
        assert 0.8 * bound < tensor.abs().max() <= bound
    for position, size in zip(layer.P, layer.dilated_kernel_size, strict=True):
        low, high = -(size // 2), size - 1 - size // 2
        assert low <= position.min()
        assert position.max() <= high
        spread = (high - low) / 12**0.5 if layer.dense_kernel_size else 0.5
        assert 0.9 * spread < position.std() < 1.1 * spread
    assert layer.SIG.unique().tolist() == [pytest.approx(0.23)]
    assert not make(cls, version="max").SIG.any()
    assert make(cls, interpolation="bicubic").SIG is None


@every_layer
def test_life_of_a_module(cls):
    layer = make(cls, padding="causal", version="gauss")
    x = image(layer)
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)
    for module in (layer, layer.eval()):
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(x[:1].repeat(3, *[1] * (x.ndim - 1))), expected[[0, 0, 0]])
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = make(cls, padding="causal", version="gauss")
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), expected)


@every_version
@pytest.mark.parametrize("size", [(3, 7), (7, 1), (3, 5, 7), (4, 6)], ids=str)
def test_fault_1_position_0_is_the_middle_of_every_shape(size, version):
    cls = nn.Dcls2d if len(size) == 2 else nn.Dcls3d
    layer = one_element([0.0] * len(size), size, version, cls)
    with torch.no_grad():
        kernel = layer.kernel()[0, 0]
    assert kernel.argmax() == torch.tensor(range(kernel.numel())).view(size)[tuple(k // 2 for k in size)]
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))


@every_version
def test_fault_2_one_order_of_axes(version):
    kernel = one_element([1.0, -2.0], (5, 5), version, nn.Dcls2d).kernel()[0, 0]
    assert divmod(int(kernel.argmax()), 5) == (3, 0)
    kernel = one_element([2.0, 1.0, -1.0], (5, 5, 5), version, nn.Dcls3d).kernel()[0, 0]
    assert divmod(int(kernel.argmax()), 25) == (4, 3 * 5 + 1)


@every_version
def test_fault_3_even_extents_keep_the_mass(version):
    layer = one_element([9.0], 4, version)
    layer.clamp_parameters()
    assert layer.P.item() == 1
    torch.testing.assert_close(layer.kernel().sum().detach(), torch.tensor(1.0))


@every_version
@pytest.mark.parametrize("start", [2.0, -2.0, 7.0, -7.0])
def test_faults_4_and_6_an_element_at_or_beyond_the_limit_comes_back(start, version):
    """Nobody clamps here; the target lies one pixel inside of the window."""
    layer = one_element([start], 5, version)
    target = torch.zeros(5)
    target[3 if start > 0 else 1] = 1
    optimizer = torch.optim.SGD([layer.P], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (layer.kernel().flatten() - target).square().sum().backward()
        optimizer.step()
    assert layer.P.item() == pytest.approx(1.0 if start > 0 else -1.0, abs=0.11)


def test_fault_5_triangles_widen_from_their_default():
    layer = one_element([0.0], 5, "max")
    layer.kernel().square().sum().backward()
    assert layer.SIG.grad.item() < 0


@pytest.mark.parametrize("version", ["vmax", "foo", ""])
def test_fault_7_unknown_versions(version):
    with pytest.raises(ValueError, match=r"Dcls2d: version: got .* one of \('v0', 'v1', 'max', 'gauss'\)"):
        make(version=version)


@every_layer
def test_fault_8_moves_and_copies_after_a_call(cls):
    layer = make(cls, version="gauss").eval()
    with torch.no_grad():
        expected = layer(image(layer).fill_(1))
        for dtype in (torch.float64, torch.float32):
            layer.to(dtype)
            x = image(layer).fill_(1).to(dtype)
            torch.testing.assert_close(layer(x).float(), expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(copy.deepcopy(layer)(x), layer(x))
            assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
        state = layer.state_dict()
        layer.load_state_dict(state)
        assert layer.to("meta")(x.to("meta")).shape == expected.shape


@pytest.mark.parametrize("size", [(11, 1), (1, 11)], ids=str)
def test_fault_9_a_window_of_one_row_or_column(size):
    layer = make(dilated_kernel_size=size, padding="same")
    assert layer.kernel().shape == (6, 4, *size)
    x = image(layer)
    assert layer(x).shape[2:] == x.shape[2:]
    layer(x).sum().backward()
    assert layer.P.grad[size.index(11)].any()
    assert not layer.P.grad[size.index(1)].any()


def test_fault_10_nothing_is_ignored():
    """Stride, padding mode and even windows, in training and in evaluation."""
    layer = make(inputs=4, outputs=4, groups=4, dilated_kernel_size=4, stride=2, padding=2, padding_mode="circular")
    x = image(layer)
    expected = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="circular")
    expected = torch.nn.functional.conv2d(expected, layer.kernel(), layer.bias, 2, groups=4)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_fault_11_a_trace_follows_the_layer():
    layer = make(padding="same").eval()
    x = image(layer)
    torch.testing.assert_close(torch.jit.trace(layer, (x,))(2 * x), layer(2 * x))


@pytest.mark.parametrize("move", ["to", "bfloat16", "half", "constructor"])
def test_fault_12_positions_stay_fine(move):
    dtype = torch.float16 if move == "half" else torch.bfloat16
    layer = make(version="gauss", padding="same", dtype=dtype if move == "constructor" else None)
    with torch.no_grad():
        layer.P.fill_(1.3)
    if move == "to":
        layer(image(layer).to(layer.weight.dtype)).sum().backward()
        layer.to(dtype, memory_format=torch.channels_last)
        assert layer.P.grad.dtype == torch.float32
        assert layer.weight.grad.dtype == dtype
    elif move != "constructor":
        getattr(layer, move)()
    assert (layer.weight.dtype, layer.bias.dtype) == (dtype, dtype)
    assert (layer.P.dtype, layer.SIG.dtype) == (torch.float32, torch.float32)
    assert layer.P.is_contiguous()
    assert layer.P.unique().item() == torch.tensor(1.3).item()
    output = layer(image(layer).to(dtype))
    assert output.dtype == dtype
    output.sum().backward()
    assert layer.double().P.dtype == torch.float64
    assert layer.half().P.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, r"Dcls2d: kernel_count: got \(0,\), expected integers of at least 1"),
        ({"dilated_kernel_size": None}, "Dcls2d: dilated_kernel_size: got None"),
        ({"dilated_kernel_size": 0}, r"dilated_kernel_size: got \(0, 0\)"),
        ({"groups": 4}, "Dcls2d: groups: got 4 for 4 channels in and 6 out, expected a divisor of both"),
        ({"groups": 0}, r"groups: got \(0,\)"),
        ({"inputs": 2.0}, "in_channels: got 2.0, expected integers"),
        ({"padding_mode": "wrap"}, "Dcls2d: padding_mode: got 'wrap'"),
        ({"padding": "full"}, "padding: got 'full'"),
        ({"stride": 0}, "stride: got"),
        ({"dilation": 0}, "dilation: got"),
        ({"interpolation": "gauss"}, r"interpolation: got 'gauss', expected None or one of \('bilinear', 'triangle'"),
        ({"version": "v1", "interpolation": "gaussian"}, "version='v1', which is 'bilinear', and interpolation='gau"),
    ],
    ids=str,
)
def test_fault_13_arguments_that_cannot_be(options, message):
    with pytest.raises(GeometryError, match=message):
        make(**options)


def test_other_messages():
    assert make(version="gauss", interpolation="gaussian").interpolation == "gaussian"
    with pytest.raises(GeometryError, match="dense_kernel_size: got 2 entries"):
        make(nn.Dcls2_1d, dense_kernel_size=(3, 3))
    with pytest.raises(ShapeError, match="dcls_conv2d: got 3 input channels"):
        make()(torch.zeros(1, 3, 9, 9))


@pytest.fixture
def count(monkeypatch):
    """Count how often a layer builds its kernel."""
    from atrous.nn import dcls

    calls, build = [], dcls.build
    monkeypatch.setattr(dcls, "build", lambda *arguments: calls.append(1) or build(*arguments))
    return calls


@pytest.mark.parametrize("groups", [1, 4])
@every_interpolation
def test_fault_14_evaluation_builds_once(interpolation, groups, count):
    layer = make(outputs=4, groups=groups, interpolation=interpolation).eval()
    x = image(layer)
    with torch.no_grad():
        first = layer(x)
        assert torch.equal(layer(x), first)
        assert len(count) == 1
        for change in (
            lambda: layer.P.add_(0.25),
            lambda: layer.weight.mul_(2),
            lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight.clone())),
            lambda: setattr(layer.P, "data", layer.P + 0.25),
            lambda: layer.load_state_dict({name: value + 0.1 for name, value in layer.state_dict().items()}),
            lambda: setattr(layer, "dilation", (2, 1)),
            lambda: layer.train().eval(),
            lambda: layer.double().float(),
        ):
            before = len(count)
            change()
            expected = copy.deepcopy(layer).train()(x)
            torch.testing.assert_close(layer(x), expected)
            assert torch.equal(layer(x), layer(x))
            assert len(count) == before + 2
        layer(x.double().to(layer.weight.dtype))
        assert "_kept" not in layer.state_dict()
        assert copy.deepcopy(layer)._kept is None


def test_what_autograd_or_a_transform_follows_is_not_kept(count):
    layer = make(outputs=4, groups=4).eval()
    x = image(layer)
    for _ in range(2):
        layer(x).sum().backward()
    assert len(count) == 2
    with torch.no_grad():
        torch.func.vmap(lambda p: torch.func.functional_call(layer, {"P": p}, (x,)))(torch.stack([layer.P] * 2))
    assert layer._kept is None
    with torch.inference_mode():
        layer(x)
    layer.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()  # what inference mode has built serves here
    assert len(count) == 4
    assert x.grad.any()


def test_fault_15_rounding_for_evaluation_is_a_copy_and_its_merge():
    """What the spiking networks do with two attributes: whole delays, and the layer itself as it was."""
    layer = make(nn.Dcls1d, version="gauss")
    whole = make(nn.Dcls1d, version="max")
    whole.load_state_dict({**layer.state_dict(), "P": layer.P.round(), "SIG": torch.zeros_like(layer.SIG)})
    taps = (whole.merge().weight.abs() > 1e-6).sum(-1)
    assert taps.max() <= layer.kernel_count
    assert layer.P.frac().any()


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_is_traced_on_a_small_image_runs_on_a_large_one(interpolation):
    layer = make(inputs=4, outputs=4, groups=4, padding="same", dilated_kernel_size=17, interpolation=interpolation)
    traced = torch.jit.trace(layer.eval(), torch.randn(1, 4, 7, 7), check_trace=False)
    for size in (3, 8, 20):
        image = torch.randn(1, 4, size, size)
        torch.testing.assert_close(traced(image), layer(image))


def test_a_fused_optimizer_drops_what_evaluation_keeps():
    """It changes parameters without raising their version."""
    layer, image = make(groups=2).eval(), torch.randn(1, 4, 20, 20)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.3, fused=True)
    with torch.no_grad():
        layer(image)
    layer(image).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        found = layer(image)
        assert torch.equal(found, layer.eval()(image))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_footprint_is_the_window(interpolation):
    layer = make(inputs=4, outputs=4, groups=4, dilated_kernel_size=(4, 9), interpolation=interpolation)
    image = torch.zeros(1, 4, 20, 20)
    assert trace_footprint(layer, image).receptive_field == (4, 9)
    assert 4 * 17 * 12 * 36 in [found.macs for found in cost(layer, image).layers]


@pytest.mark.parametrize("version", [["v0"], "v2"])
def test_a_version_that_is_none(version):
    with pytest.raises(GeometryError, match="Dcls2d: version: got"):
        make(version=version)
