"""Every torch contract of the two compiled operations, against the definition in float64 where numbers are compared."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from atrous._backends import reference
from atrous._ops.tap_conv import tap_conv, tap_conv_weight
from atrous.functional import tap_conv as public
from atrous.testing import TAP_CASES

OPS = torch.ops.atrous
CASES = {case.name: case for case in TAP_CASES}
SOME = [
    "1d-stride-3-2",
    "2d-dense-stride",
    "2d-per-pair-groups",
    "2d-hostile-stride",
    "2d-no-taps",
    "3d-dense-per-pair",
    "1d-19-channels-last-1-1",
    "2d-17-channels-last-2-1",
    "2d-channels-last-dense",
    "3d-5-channels-last-2-1",
]

some_cases = pytest.mark.parametrize("name", SOME)


def arguments(name, dtype=torch.float32):
    """Return the arguments of the raw `tap_conv` and those of `tap_conv_weight` for a case."""
    case = CASES[name]
    input, weight, offsets, bias = case.tensors(dtype)
    size = tuple(public(input, weight, offsets, **case.options, backend="reference").shape[2:])
    offsets = offsets.clamp(1 - 2**31, 2**31 - 1).int()
    steps = ((n,) * case.ndim if isinstance(n, int) else n for n in (case.stride, case.upsample))
    stride, upsample = steps
    seed = torch.randn(input.shape[0], weight.shape[0], *size, dtype=torch.float64).to(dtype)
    forward = input, weight, offsets, bias, stride, upsample, size
    return forward, (seed, input, offsets, stride, upsample, case.groups)


def tiny(per_pair=False, dtype=torch.float64):
    """Return small integers as floats: float32 then computes without rounding, and differences are exact."""

    def draw(*shape):
        return torch.randint(-3, 4, shape).to(dtype)

    shape = (2, 2, 2, 2) if per_pair else (2, 2)
    return draw(1, 4, 3, 3), draw(2, 2, 2), draw(2), draw(1, 2, 2, 4), torch.randint(-2, 3, shape).int()


STEPS = (2, 1), (1, 2)
SIZE = (2, 4)


def leaves_close(results, expected, tolerance=2e-4):
    for result, exact in zip(tree_leaves(results), tree_leaves(expected), strict=True):
        result, exact = result.double(), exact.double()
        torch.testing.assert_close(result, exact, rtol=tolerance, atol=tolerance * (1 + exact.abs().max().item()))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in SOME]
    + [(name, dtype) for name in SOME[-3:] for dtype in (torch.float64, torch.bfloat16, torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("frozen", [False, True])
def test_opcheck(name, dtype, frozen):
    forward, backward = arguments(name, dtype)
    for operation, call in ((OPS.tap_conv.default, forward), (OPS.tap_conv_weight.default, backward)):
        floating = [t for t in call if isinstance(t, torch.Tensor) and t.is_floating_point()]
        for tensor in floating:
            tensor.requires_grad_(not frozen)
        torch.library.opcheck(operation, call)
        for tensor in floating:
            tensor.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("per_pair", [False, True])
def test_gradcheck(per_pair, dtype):
    """The operations are linear in each tensor, so a difference over half a unit is as exact as one over 1e-6."""
    input, weight, bias, seed, offsets = tiny(per_pair)
    options = {"eps": 0.5, "atol": 1e-3}

    def forward(input, weight, bias):
        tensors = input.to(dtype), weight.to(dtype), offsets, bias.to(dtype)
        return tap_conv(*tensors, *STEPS, SIZE).double()

    def backward(seed, input):
        return tap_conv_weight(seed.to(dtype), input.to(dtype), offsets, *STEPS, 2).double()

    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    for function, leaves in ((forward, (input, weight, bias)), (backward, (seed, input))):
        leaves = tuple(leaf.requires_grad_() for leaf in leaves)
        assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, **batched, **options)
        assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True, **options)


BOTH = (0, 1)
TRANSFORMS = {
    "grad": lambda f: grad(lambda x, w: f(x, w).sum(), BOTH),
    "vjp": lambda f: lambda x, w: vjp(f, x, w)[1](f(x, w)),
    "jvp": lambda f: lambda x, w: jvp(f, (x, w), (x.sin(), w.cos())),
    "jvp of one": lambda f: lambda x, w: jvp(lambda w: f(x, w), (w,), (w.cos(),)),
    "jacrev": lambda f: jacrev(f, BOTH),
    "jacfwd": lambda f: jacfwd(f, BOTH),
    "hessian": lambda f: hessian(lambda x, w: f(x, w).sum(), BOTH),
    "forward over forward": lambda f: jacfwd(jacfwd(lambda x, w: f(x, w).sum(), BOTH), BOTH),
    "reverse over forward": lambda f: jacrev(jacfwd(lambda x, w: f(x, w).sum(), BOTH), BOTH),
    "third": lambda f: jacfwd(jacrev(jacfwd(lambda x, w: f(x, w).sum(), BOTH), BOTH), 1),
}


@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms(transform, per_pair):
    input, weight, bias, seed, offsets = tiny(per_pair)
    input, seed = input[..., :2] / 4, seed / 4

    def forward(run, tensor=lambda t: t):
        return lambda x, w: run(x, w, offsets, tensor(bias), *STEPS, SIZE).sin()

    def backward(run):
        return lambda g, x: run(g, x, offsets, *STEPS, 2).sin()

    expected = transform(forward(reference.tap_conv))(input, weight)
    leaves_close(transform(forward(tap_conv, torch.Tensor.float))(input.float(), weight.float()), expected)
    expected = transform(backward(reference.tap_conv_weight))(seed, input)
    leaves_close(transform(backward(tap_conv_weight))(seed.float(), input.float()), expected)


def test_jvp_of_the_bias_alone():
    input, weight, bias, _, offsets = tiny(dtype=torch.float32)
    run = lambda bias: tap_conv(input, weight, offsets, bias, *STEPS, SIZE)  # noqa: E731 - two calls, one line
    _, tangent = jvp(run, (bias,), (2 * bias,))
    assert torch.equal(tangent, 2 * bias.view(-1, 1, 1).expand(1, 2, *SIZE))


def mapped(*tensors):
    """Return every way to map a non-empty choice of the tensors, over the first dimension or over the last."""
    for choice in itertools.product((False, True), repeat=len(tensors)):
        for place in (0, -1) if any(choice) else ():
            yield (
                [
                    torch.stack([t, 2 * t, -t], place) if chosen else t
                    for t, chosen in zip(tensors, choice, strict=True)
                ],
                tuple(place if chosen else None for chosen in choice),
            )


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("per_pair", [False, True])
def test_vmap_over_every_choice_of_arguments(per_pair, raw):
    input, weight, bias, seed, offsets = tiny(per_pair)
    forward, backward = (OPS.tap_conv, OPS.tap_conv_weight) if raw else (tap_conv, tap_conv_weight)
    for tensors, dims in mapped(input, weight, offsets, bias):
        expected = vmap(lambda *a: reference.tap_conv(*a, *STEPS, SIZE), dims)(*tensors)
        single = [t.float() if t.is_floating_point() else t for t in tensors]
        leaves_close(vmap(lambda *a: forward(*a, *STEPS, SIZE), dims)(*single), expected)
    for tensors, dims in mapped(seed, input, offsets):
        expected = vmap(lambda *a: reference.tap_conv_weight(*a, *STEPS, 2), dims)(*tensors)
        single = [t.float() if t.is_floating_point() else t for t in tensors]
        leaves_close(vmap(lambda *a: backward(*a, *STEPS, 2), dims)(*single), expected)


def test_vmap_of_vmap_and_of_nothing():
    input, weight, bias, _, offsets = tiny(dtype=torch.float32)
    inputs, weights = torch.stack([input, -input]), torch.stack([weight, 2 * weight, 3 * weight])
    every = vmap(vmap(lambda x, w: tap_conv(x, w, offsets, bias, *STEPS, SIZE), (None, 0)), (0, None))(inputs, weights)
    assert every.shape == (2, 3, 1, 2, *SIZE)
    assert torch.equal(every[1, 2], tap_conv(-input, 3 * weight, offsets, bias, *STEPS, SIZE))
    empty = vmap(lambda x: tap_conv(x, weight, offsets, bias, *STEPS, SIZE))(inputs[:, :0])
    assert empty.shape == (2, 0, 2, *SIZE)


class Layer(torch.nn.Module):
    def __init__(self, per_pair=False):
        super().__init__()
        shape = (4, 2, 5, 2) if per_pair else (5, 2)
        self.register_buffer("offsets", torch.randint(-4, 5, shape, dtype=torch.int32))
        self.weight = torch.nn.Parameter(torch.randn(4, 2, 5))
        self.bias = torch.nn.Parameter(torch.randn(4))

    def forward(self, input):
        down = public(input, self.weight, self.offsets, self.bias, stride=2)
        return public(down, self.weight, self.offsets, upsample=2, output_size=input.shape[2:]).sin()


@pytest.mark.parametrize("per_pair", [False, True])
def test_per_sample_gradients(per_pair):
    layer, inputs = Layer(per_pair), torch.randn(5, 4, 9, 10)
    parameters = dict(layer.named_parameters())

    def loss(parameters, input):
        return functional_call(layer, parameters, (input[None],)).square().sum()

    results = vmap(grad(loss), (None, 0))(parameters, inputs)
    for index, input in enumerate(inputs):
        expected = torch.autograd.grad(loss(parameters, input), list(parameters.values()))
        for result, one in zip(results.values(), expected, strict=True):
            torch.testing.assert_close(result[index], one, rtol=1e-4, atol=1e-4)


def with_gradients(module, layer, input):
    output = module(input)
    return [output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]


@pytest.mark.parametrize("per_pair", [False, True])
def test_one_compiled_graph_serves_every_size(per_pair):
    layer, counter = Layer(per_pair), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for shape in ((3, 4, 11, 12), (6, 4, 17, 9), (7, 4, 8, 23)):
        input = torch.randn(shape)
        for result, expected in zip(
            with_gradients(compiled, layer, input), with_gradients(layer, layer, input), strict=True
        ):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_compiled_vmap():
    input, weight, bias, _, offsets = tiny(dtype=torch.float32)
    weights = torch.stack([weight, 2 * weight])

    def run(input, weights):
        return vmap(lambda weight: tap_conv(input, weight, offsets, bias, *STEPS, SIZE))(weights)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(input, weights), run(input, weights))


@pytest.mark.slow
def test_inductor_smoke():
    layer, input = Layer(), torch.randn(3, 4, 11, 12)
    compiled = torch.compile(layer, fullgraph=True)
    for result, expected in zip(
        with_gradients(compiled, layer, input), with_gradients(layer, layer, input), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_free_sizes_trains(strict):
    layer, auto = Layer(), torch.export.Dim.AUTO
    free = ({0: auto, 2: auto, 3: auto},)
    program = torch.export.export(layer, (torch.randn(3, 4, 11, 12),), dynamic_shapes=free, strict=strict)
    assert "atrous.tap_conv.default" in str(program.graph)
    module, input = program.module(), torch.randn(5, 4, 9, 14)
    torch.testing.assert_close(module(input), layer(input))
    optimizer, target = torch.optim.SGD(module.parameters(), 1e-4), torch.zeros(5, 4, 9, 14)
    losses = []
    for _ in range(3):
        losses.append(torch.nn.functional.mse_loss(module(input), target, reduction="sum"))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]


def test_autocast_computes_in_float32():
    forward, backward = arguments("2d-dense-stride")
    for operation, call in ((OPS.tap_conv, forward), (OPS.tap_conv_weight, backward)):
        rounded = [t.bfloat16() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in call]
        single = [t.float() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in rounded]
        with torch.autocast("cpu", torch.bfloat16):
            result = operation(*rounded)
        assert result.dtype == torch.float32
        assert torch.equal(result, operation(*single))


def test_training_under_autocast_gives_float32_gradients():
    layer, input = Layer(), torch.randn(3, 4, 9, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(input)
    expected = layer(input.float())
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected)
    for result, one in zip(
        *(torch.autograd.grad(y.sum(), list(layer.parameters())) for y in (output, expected)), strict=True
    ):
        torch.testing.assert_close(result, one)


@pytest.mark.parametrize(("per_pair", "groups"), [(False, 1), (True, 2)])
def test_flops(per_pair, groups):
    per_group, taps = 4 // groups, 5
    shape = (6, per_group, taps, 2) if per_pair else (taps, 2)
    offsets = torch.randint(-3, 4, shape, dtype=torch.int32)
    x, w = torch.randn(2, 4, 7, 8, requires_grad=True), torch.randn(6, per_group, taps, requires_grad=True)
    each = 2 * 2 * 6 * per_group * taps * (4 * 8)
    with FlopCounterMode(display=False) as counter:
        output = public(x, w, offsets, stride=(2, 1))
    assert counter.get_total_flops() == each
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    assert counts[OPS.tap_conv_weight] == each
    # What the input gradient multiplies: as many taps for every pixel of the input.
    assert counts[OPS.tap_conv] == 2 * 2 * 4 * (6 // groups) * taps * (7 * 8)


def test_taps_on_axes_of_their_own():
    """A convolution gives its weight as it is, (D, C/groups, *K)."""
    x, w = torch.randn(2, 4, 7, 8, requires_grad=True), torch.randn(6, 2, 3, 2, requires_grad=True)
    offsets = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(2)).int()
    outputs = [run(x, one, offsets, None, (1, 1), (1, 1), (7, 8)) for run in (tap_conv, OPS.tap_conv)
               for one in (w, w.flatten(2))]  # fmt: skip
    results = [(y, *torch.autograd.grad(y.sin().sum(), (x, w))) for y in outputs]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def for_threads(run):
    """Return what `run` gives with 1, 2, 1 and 2 threads."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    return results


@pytest.mark.parametrize(
    "name",
    ["2d-many", "2d-dense-stride", "2d-groups-of-8", "2d-stride-2-upsample-3", "1d-40-channels-last-2-3",
     "2d-per-pair-many"],
)  # fmt: skip
def test_the_same_bits_for_every_number_of_threads(name):
    forward, backward = arguments(name)
    first, *others = for_threads(lambda: (OPS.tap_conv(*forward), OPS.tap_conv_weight(*backward)))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("shape", [(8, 1, 90, 90), (1, 1, 300, 300), (4, 2, 70000), (2, 5, 100, 100)], ids=str)
def test_the_same_bits_of_the_bias_gradient(shape):
    bias, grads = torch.zeros(shape[1], requires_grad=True), torch.randn(shape)
    weight, offsets = torch.ones(shape[1], 1, 1), torch.zeros(1, len(shape) - 2, dtype=torch.int32)
    first, *others = for_threads(lambda: torch.autograd.grad(public(grads, weight, offsets, bias), bias, grads)[0])
    assert all(torch.equal(first, other) for other in others)
    torch.testing.assert_close(first.double(), grads.double().transpose(0, 1).flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_any_strides_and_the_smallest_offset():
    x, w = torch.randn(9, 8, 4, 2).permute(3, 2, 1, 0).requires_grad_(), torch.randn(3, 2, 4).permute(2, 1, 0)
    w = w.contiguous()[:, ::2].expand(4, 1, 3).requires_grad_()
    offsets = torch.tensor([[0, -(2**31)], [1, 0], [-(2**31), 1]], dtype=torch.int32)
    output = tap_conv(x, w, offsets, None, (1, 1), (1, 1), (8, 9))
    seed = torch.randn_like(output).transpose(2, 3).contiguous().transpose(2, 3)
    results = output, *torch.autograd.grad(output, (x, w), seed)
    exact = reference.tap_conv(x.double(), w.double(), offsets, None, (1, 1), (1, 1), (8, 9))
    leaves_close(results, (exact, *torch.autograd.grad(exact, (x, w), seed.double())), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 16, 16, 16), (3, 33, 5), (2, 17, 3, 4, 5), (0, 3, 4, 4)])
def test_channels_that_lie_last_change_no_bit_and_stay_last(dtype, shape):
    axes = len(shape) - 2
    offsets = torch.randint(-2, 3, (shape[1], 1, 4, axes), dtype=torch.int32)
    input, grad = (torch.randn(shape).to(dtype) for _ in range(2))
    weight = torch.randn(shape[1], 1, 4).to(dtype)
    last = [tensor.movedim(1, -1).contiguous().movedim(-1, 1) for tensor in (input, grad)]
    once = (1,) * axes
    moved = tap_conv(last[0], weight, offsets, None, once, once, shape[2:])
    assert torch.equal(moved, tap_conv(input, weight, offsets, None, once, once, shape[2:]))
    assert moved.movedim(1, -1).is_contiguous()
    expected = tap_conv_weight(grad, input, offsets, once, once, shape[1])
    assert torch.equal(tap_conv_weight(last[1], last[0], offsets, once, once, shape[1]), expected)
    assert torch.equal(tap_conv_weight(grad, last[0], offsets, once, once, shape[1]), expected)
