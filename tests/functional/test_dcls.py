import pytest
import torch
import torch.nn.functional as F

from atrous import BackendError, GeometryError, ShapeError, explain
from atrous.functional import dcls, dcls_conv1d, dcls_conv2d, dcls_conv3d, dcls_kernel
from atrous.functional.dcls import window
from atrous.testing import assert_within_budget

VERBS = {1: dcls_conv1d, 2: dcls_conv2d, 3: dcls_conv3d}
TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (23,), 2: (11, 14), 3: (7, 8, 9)}
WINDOWS = {1: (7,), 2: (4, 5), 3: (3, 2, 5)}
WIDE = ("triangle", "gaussian")
pytestmark = pytest.mark.usefixtures("always_taps")


def elements(sizes, lead, count=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*lead, count, generator=generator, dtype=dtype)
    positions = torch.randn(len(sizes), *lead, count, generator=generator, dtype=dtype) * max(sizes) / 3
    return weight, positions, torch.randn(positions.shape, generator=generator, dtype=dtype)


def of(interpolation, scales, sizes):
    kind = {"dilated_kernel_size": sizes, "interpolation": interpolation}
    return {"scales": scales, **kind} if interpolation in WIDE else kind


def runs_on(*args, **kwargs):
    return explain(*args, **kwargs).split(" of ")[0]


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian", "bicubic"])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 3}, {"dilation": 2, "padding": "same"}, {"padding": "causal", "stride": 3}],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_it_is_a_convolution_with_the_kernel(ndim, groups, options, interpolation):
    sizes, channels = WINDOWS[ndim], 12
    weight, positions, scales = elements(sizes, (channels, channels // groups))
    kind = of(interpolation, scales, sizes)
    x, bias = torch.randn(2, channels, *SIZES[ndim]), torch.randn(channels)
    window = dcls.window(sizes, options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1), ndim)
    sides = [side for pair in reversed(window.padding) for side in pair]
    leaves = [tensor.requires_grad_() for tensor in (x, weight, positions, bias)]

    def outcome(dtype, call):
        tensors = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        output = call(*tensors)
        seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        return [output, *torch.autograd.grad(output, tensors, seed)]

    def by_torch(x, weight, positions, bias):
        kernel = dcls_kernel(weight, positions, **kind)
        return TORCH[ndim](F.pad(x, sides), kernel, bias, window.stride, 0, window.dilation, groups)

    def by_us(x, weight, positions, bias):
        return VERBS[ndim](x, weight, positions, bias=bias, groups=groups, **options, **kind)

    found, own, exact = (
        outcome(torch.float32, by_us),
        outcome(torch.float32, by_torch),
        outcome(torch.float64, by_torch),
    )
    for what, *values in zip(("output", "input", "weight", "positions", "bias"), found, own, exact, strict=True):
        assert_within_budget(*(value.detach() for value in values), what=what)
    torch.testing.assert_close(by_us(x[0], weight, positions, bias), found[0][0])


def test_few_channels_run_as_taps_and_many_as_a_kernel():
    for channels, groups, interpolation, verb in (
        (8, 8, "bilinear", "tap_conv"),
        (8, 2, "bicubic", "tap_conv"),
        (16, 1, "bilinear", "conv2d"),
        (8, 8, "triangle", "conv2d"),
    ):
        weight, positions, scales = elements((5, 5), (channels, channels // groups))
        kind = of(interpolation, scales, 5)
        x = torch.randn(1, channels, 9, 9)
        assert runs_on(dcls_conv2d, x, weight, positions, groups=groups, **kind) == verb
        assert runs_on(dcls_conv2d, x, weight, positions, groups=groups, backend="aten", **kind) == "conv2d"
        expected = dcls_conv2d(x, weight, positions, groups=groups, **kind)
        for backend in ("aten", "reference", "cpu"):
            output = dcls_conv2d(x, weight, positions, groups=groups, backend=backend, **kind)
            torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("extent", [4, 5, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("backend", [None, "aten"])
def test_position_0_stays_on_its_pixel(extent, stride, backend):
    x, weight, positions = torch.randn(1, 2, 10, 11), torch.ones(2, 1, 1), torch.zeros(2, 2, 1, 1)
    options = {"dilated_kernel_size": extent, "padding": "same", "dilation": 3, "stride": stride}
    output = dcls_conv2d(x, weight, positions, groups=2, backend=backend, **options)
    assert torch.equal(output, x[..., ::stride, ::stride])


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 2}, {"padding": ((3, 9), "causal")}], ids=str)
def test_a_window_larger_than_the_image(interpolation, options):
    """Only what some output reads is convolved; derivatives are those of the whole kernel."""
    weight, positions, scales = elements((13, 12), (4, 4))
    kind = of(interpolation, scales, (13, 12))
    leaves = [leaf.requires_grad_() for leaf in (torch.randn(2, 4, 4, 5), weight, positions)]
    options = {"padding": "same", **options}
    sides = window((13, 12), options.get("stride", 1), options["padding"], options.get("dilation", 1), 2).padding
    padded = F.pad(leaves[0], [side for pair in reversed(sides) for side in pair])
    rest = {name: value for name, value in options.items() if name != "padding"}
    expected = F.conv2d(padded, dcls_kernel(weight, positions, **kind), **rest)
    output = dcls_conv2d(*leaves, **kind, **options)
    torch.testing.assert_close(output, expected)
    gradient = torch.randn_like(output)
    found, wanted = (torch.autograd.grad(one, leaves, gradient) for one in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("groups", [1, 6])
def test_padding_modes(groups, mode):
    weight, positions, _ = elements((4, 5), (6, 6 // groups))
    x = torch.randn(2, 6, 9, 8)
    kernel = dcls_kernel(weight, positions, dilated_kernel_size=(4, 5))
    options = {"dilated_kernel_size": (4, 5), "padding": ("same", (1, 3)), "padding_mode": mode, "groups": groups}
    expected = F.conv2d(F.pad(x, (1, 3, 2, 1), mode=mode), kernel, groups=groups)
    torch.testing.assert_close(dcls_conv2d(x, weight, positions, **options), expected)
    torch.testing.assert_close(dcls_conv2d(x[0], weight, positions, **options), expected[0])


@pytest.mark.parametrize(("dense", "sizes"), [((3,), (5,)), ((2, 3), (4,)), ((3,), (4, 5))], ids=str)
@pytest.mark.parametrize("groups", [1, 6])
def test_a_dense_window(groups, dense, sizes):
    ndim = len(dense) + len(sizes)
    weight, positions, _ = elements(sizes, (6, 6 // groups, *dense))
    x = torch.randn(2, 6, *SIZES[ndim])
    kernel = dcls_kernel(weight, positions, dilated_kernel_size=sizes)
    options = {"stride": 2, "dilation": (2, 1, 1)[:ndim], "padding": 3, "groups": groups}
    output = VERBS[ndim](x, weight, positions, dilated_kernel_size=sizes, **options)
    torch.testing.assert_close(output, TORCH[ndim](x, kernel, **options), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian"])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_autocast_gives_what_a_convolution_has(dtype, groups, interpolation):
    weight, positions, scales = elements((5, 5), (8, 8 // groups))
    kind = of(interpolation, scales, 5)
    x = torch.randn(1, 8, 9, 9).to(dtype).requires_grad_()
    expected = dcls_conv2d(x.float(), weight, positions, groups=groups, **kind)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = dcls_conv2d(x, weight, positions, groups=groups, **kind)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.02 * expected.abs().max()
    for leaf, grad in zip((x, weight), torch.autograd.grad(output.sum(), (x, weight)), strict=True):
        assert grad.dtype == leaf.dtype


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian"])
@pytest.mark.parametrize("groups", [1, 6])
def test_compile_export_and_transforms(groups, interpolation):
    weight, positions, scales = elements((4, 5), (6, 6 // groups))
    kind = {**of(interpolation, scales, (4, 5)), "padding": "same", "groups": groups}
    x = torch.randn(2, 6, 9, 8)

    class Net(torch.nn.Module):
        def forward(self, x, weight, positions):
            return dcls_conv2d(x, weight, positions, **kind)

    net, arguments = Net(), (x, weight, positions)
    expected = net(*arguments)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(*arguments), expected)
    shapes = ({0: torch.export.Dim("batch", min=1), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}, {}, {})
    program = torch.export.export(net, arguments, dynamic_shapes=shapes)
    bigger = torch.randn(3, 6, 12, 11)
    torch.testing.assert_close(program.module()(bigger, weight, positions), net(bigger, weight, positions))
    many = torch.stack([positions, positions / 2])
    mapped = torch.func.vmap(net, (None, None, 0))(x, weight, many)
    torch.testing.assert_close(mapped, torch.stack([net(x, weight, each) for each in many]))
    tangent = tuple(torch.randn_like(each) for each in arguments)
    _, forward = torch.func.jvp(net, arguments, tangent)
    double = [each.double().requires_grad_() for each in arguments]
    kind.update({"scales": scales.double()} if interpolation in WIDE else {})
    backward = torch.autograd.grad((net(*double) * forward.double()).sum(), double)
    # <v, J t> = <J' v, t>
    product = sum((grad * each).sum() for grad, each in zip(backward, tangent, strict=True))
    torch.testing.assert_close(product, forward.double().square().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("groups", [1, 3])
def test_second_derivatives(groups):
    weight, positions, _ = elements((3, 4), (3, 3 // groups), 2, torch.float64, seed=3)
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64)
    # Inside of the window: beyond it the derivative is not that of the value.
    leaves = [leaf.requires_grad_() for leaf in (x, weight, 0.9 * positions.tanh())]

    def run(*leaves):
        return dcls_conv2d(*leaves, dilated_kernel_size=(3, 4), padding=1, groups=groups)

    assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_little_is_saved_for_backward():
    weight, positions, _ = elements((17, 17), (768, 1), 34)
    x = torch.randn(1, 768, 7, 7, requires_grad=True)
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, weight.requires_grad_(), positions.requires_grad_())}
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dcls_conv2d(x, weight, positions, dilated_kernel_size=17, padding="same", groups=768)
    assert sum(size for storage, size in saved.items() if storage not in given) < 2 * 2**20


def bad(x=(1, 4, 9, 9), weight=(4, 1, 3), positions=(2, 4, 1, 3), bias=None, dtype=torch.float32, **options):
    tensors = torch.zeros(x, dtype=dtype), torch.zeros(weight), torch.zeros(positions)
    bias = None if bias is None else torch.zeros(bias)
    return lambda: dcls_conv2d(*tensors, bias=bias, **{"dilated_kernel_size": 5, "groups": 4, **options})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (bad(positions=(1, 4, 1, 3)), ShapeError, r"dcls_conv2d: got weight \(4, 1, 3\) and positions along 1 axes"),
        (bad(x=(9, 9)), ShapeError, r"dcls_conv2d: input: got shape \(9, 9\)"),
        (bad(groups=2), ShapeError, r"dcls_conv2d: got 4 input channels, weight \(4, 1, 3\) and groups=2"),
        (bad(bias=(3,)), ShapeError, r"dcls_conv2d: bias: got shape \(3,\), expected \(4,\)"),
        (bad(dtype=torch.float64), ShapeError, "dcls_conv2d: got tensors of torch.float32, torch.float64"),
        (bad(x=(1, 4, 3, 9)), ShapeError, r"got an input of \(3, 9\) pixels.* extent \(5, 5\)"),
        (bad(x=(1, 4, 3, 9), backend="aten"), ShapeError, r"got an input of \(3, 9\) pixels.* extent \(5, 5\)"),
        (bad(padding="full"), GeometryError, "padding: got 'full'"),
        (bad(padding=("same", "same", 0)), GeometryError, "padding: got 3 entries"),
        (bad(dilation=0), GeometryError, "dilation: got"),
        (bad(stride=0), GeometryError, "stride: got"),
        (bad(padding_mode="wrap"), GeometryError, "dcls_conv2d: padding_mode: got 'wrap', expected one of .'zeros'"),
        (bad(padding=9, padding_mode="reflect"), ShapeError, "padding_mode 'reflect': got padding"),
        (bad(backend="cuda"), BackendError, r"dcls_conv2d: got backend='cuda', expected None or one of \('aten'"),
        (bad(interpolation="linear"), GeometryError, "dcls_conv2d: interpolation: got 'linear', expected one of"),
        (bad(interpolation="triangle"), ShapeError, "dcls_conv2d: scales: got None"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
