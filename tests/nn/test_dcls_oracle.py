"""Our layers against those of the `dcls` package: equal where it is right, and both shown where it is not."""

import pytest
import torch
from DCLS.construct import modules as theirs

from atrous import nn
from atrous.convert import load_dcls

pytestmark = pytest.mark.usefixtures("always_taps")

# Whose axis of ours every axis of theirs is, by axes with learned positions.
V0_AXES = {1: (0,), 2: (0, 1), 3: (0, 2, 1)}
AXES = {1: (0,), 2: (1, 0), 3: (2, 1, 0)}
PIXELS = {1: (15,), 2: (12, 13), 3: (9, 10, 11)}
VERSIONS = ("v0", "v1", "max", "gauss")
SIZES = {
    "Dcls1d": [(7,), (6,), (2,)],
    "Dcls2d": [(5, 5), (4, 4), (3, 7), (6, 5), (7, 2)],
    "Dcls3d": [(3, 3, 3), (4, 4, 4), (3, 5, 7), (6, 3, 4)],
    "Dcls3_1d": [(7,), (6,)],
}
CASES = [
    (name, size, version)
    for name, sizes in SIZES.items()
    for size in sizes
    for version in VERSIONS
    if (name, version) != ("Dcls3_1d", "v0")  # which the package does not have
]

every_version = pytest.mark.parametrize("version", VERSIONS)


def pair(name, size, version, channels=(4, 6), count=3, **options):
    """Return a layer of theirs and one of ours, in float64."""
    quiet = {"use_implicit_gemm": False} if name == "Dcls2d" else {}
    options |= {"dilated_kernel_size": size, "version": version}
    layers = getattr(theirs, name)(*channels, count, **options, **quiet), getattr(nn, name)(*channels, count, **options)
    return tuple(layer.double() for layer in layers)


def single(position, size, version, scale=0.0):
    """Return theirs and ours with one element of weight 1, at what each of them takes for this position."""
    layers = pair(f"Dcls{len(size)}d", size, version, (1, 1), 1, bias=False)
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(1)
            layer.P.copy_(torch.tensor(position).view(layer.P.shape))
            if layer.SIG is not None:
                layer.SIG.fill_(scale)
    return layers


def kernels(official, ours):
    return official.DCK(official.weight, official.P, official.SIG)[0, 0], ours.kernel()[0, 0]


def position_gradients(official, ours, loss):
    """Return the derivative of a loss of the kernel in P, theirs and ours."""
    both = zip(kernels(official, ours), (official, ours), strict=True)
    return [torch.autograd.grad(loss(kernel), layer.P)[0].flatten() for kernel, layer in both]


def elements(official, size, version):
    """Return parameters of theirs by name, whose positions lie inside of the window and between pixels."""
    axes = (V0_AXES if version == "v0" else AXES)[len(size)]
    parameters = {name: torch.randn_like(value) for name, value in official.named_parameters()}
    for at, axis in enumerate(axes):
        # They count along one axis from the middle of another.
        pixel = torch.randint(size[axis] - 1, parameters["P"][at].shape) - size[at] // 2
        parameters["P"][at] = pixel + torch.empty_like(parameters["P"][at]).uniform_(0.05, 0.95)
    return parameters


def outcome(layer, leaves, input, parameters):
    output = torch.func.functional_call(layer, parameters, (input,))
    grad = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad(output, [input, *leaves], grad)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("name", "size", "version"), CASES, ids=str)
def test_output_and_gradients(name, size, version, groups):
    options = {"dense_kernel_size": (2, 3)} if "_" in name else {}
    official, ours = pair(name, size, version, groups=groups, stride=2, padding=1, **options)
    leaves = {key: value.requires_grad_() for key, value in elements(official, size, version).items()}
    assert load_dcls(ours, leaves, version=version).outside == {"": 0}
    input = torch.randn(2, 4, *PIXELS[ours.ndim], dtype=torch.float64, requires_grad=True)
    # Theirs is normalised by its mass, which is 1 in 'v1', and 1e-7.
    scaled = leaves | {"weight": leaves["weight"] * (1 + 1e-7)} if version == "v1" else leaves
    expected = dict(zip(["output", "input", *leaves], outcome(official, leaves.values(), input, scaled), strict=True))
    parameters = {key: getattr(ours, key) for key in leaves}
    found = outcome(ours, parameters.values(), input, parameters)
    axes = (V0_AXES if version == "v0" else AXES)[len(size)]
    for (what, value), result in zip(expected.items(), found, strict=True):
        mapped = torch.stack([value[axes.index(axis)] for axis in range(len(size))]) if what in ("P", "SIG") else value
        torch.testing.assert_close(
            result, mapped, rtol=1e-12, atol=1e-12, msg=lambda text, what=what: f"{what}: {text}"
        )


@pytest.mark.parametrize(
    ("size", "version", "found"),
    [
        ((3, 7), "v1", None),
        ((3, 7), "max", None),
        ((3, 7), "gauss", (2, 1)),
        ((7, 1), "v1", None),
        ((3, 5, 7), "v0", (1, 3, 2)),
        ((3, 5, 7), "v1", None),
        ((3, 5, 7), "gauss", (2, 2, 1)),
    ],
    ids=str,
)
def test_fault_1_the_middle_of_another_axis(size, version, found):
    """Theirs has the element of position 0 elsewhere, or loses it (None); ours has it in the middle."""
    official, ours = single([0.0] * len(size), size, version)
    kernel, own = kernels(official, ours)
    if found is None:
        assert not kernel.any()
    else:
        assert kernel.argmax() == torch.arange(kernel.numel()).view(size)[found]
    assert own[tuple(k // 2 for k in size)] > 0.99
    # Loaded, it lies where they have it; only that of 'v0' is inside of the window.
    inside = version == "v0"
    assert load_dcls(ours, official.state_dict(), version=version).outside == {"": 0 if inside else 1}
    moved = ours.kernel()[0, 0]
    assert moved.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(moved, kernel) == inside


@pytest.mark.parametrize(("version", "left"), [("v0", 0.0), ("v1", 0.0), ("max", 0.0), ("gauss", 0.917)])
def test_fault_3_the_limit_of_an_even_window_is_outside(version, left):
    official, ours = single([3.0, 3.0], (6, 6), version)
    official.clamp_parameters()
    assert official.P.unique().tolist() == [3]
    assert kernels(official, ours)[0].sum().item() == pytest.approx(left, abs=1e-3)
    assert load_dcls(ours, official.state_dict(), version=version).outside == {"": 1}
    ours.clamp_parameters()
    assert ours.P.unique().tolist() == [2]
    assert ours.kernel().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("version", ["v1", "max"])
def test_fault_4_no_derivative_at_a_pixel(version):
    """The loss wants the element one pixel on."""
    stuck, free = position_gradients(*single([1.0], (7,), version), lambda kernel: -kernel[5])
    assert stuck == 0
    assert free < -0.4


@pytest.mark.parametrize("version", ["v0", "v1", "max"])
def test_fault_4_an_element_at_the_limit_is_lost(version):
    """The loss wants the element one pixel back: theirs does not move, or moves away from the window."""
    target = torch.zeros(5, dtype=torch.float64)
    target[3] = 1
    gradients = position_gradients(*single([2.0], (5,), version), lambda kernel: (kernel - target).square().sum())
    assert gradients[0] == (-2 if version == "v0" else 0)
    assert gradients[1] > 1


def test_fault_5_the_width_of_a_triangle_stays_at_its_default():
    learned = []
    layers = single([0.3], (7,), "max")
    for kernel, layer in zip(kernels(*layers), layers, strict=True):
        kernel.square().sum().backward()
        learned.append(layer.SIG.grad.item())
    assert learned[0] == 0
    assert learned[1] < -0.1


@every_version
def test_fault_8_a_move_after_a_call(version):
    official, ours = single([0.0, 0.0], (5, 5), version)
    input = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(ours(input), official(input), rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="device"):
        official.to("meta")(input.to("meta"))
    assert ours.to("meta")(input.to("meta")).shape == (1, 1, 5, 5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
@every_version
def test_fault_11_a_trace(version):
    official, ours = single([0.0, 0.0], (5, 5), version)
    input = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    with pytest.raises(torch.jit.TracingCheckError, match="Graphs differed across invocations"):
        torch.jit.trace(official, (input,))
    torch.testing.assert_close(torch.jit.trace(ours, (input,))(2 * input), ours(2 * input))


@every_version
def test_fault_12_16_bits_round_positions(version):
    official, ours = (layer.float() for layer in single([10.3], (25,), version))
    expected = ours.kernel()
    official, ours = official.bfloat16(), ours.bfloat16()
    assert official.P.item() == 10.3125
    assert ours.P.item() == torch.tensor(10.3).item()
    assert torch.equal(ours.kernel(), expected)
    input = torch.ones(1, 1, 30).bfloat16()
    assert ours(input).dtype == torch.bfloat16
    if version == "v0":
        # The first where torch multiplies 16 bits by itself, the second where oneDNN does.
        words = r"expected scalar type BFloat16 but found Float|Input type .* and weight type .* should be the same"
        with pytest.raises(RuntimeError, match=words):
            official(input)
    else:
        rounded = kernels(official, ours)[0].float()
        assert (rounded - expected[0, 0]).abs().max() > 0.005
