import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError, functional
from atrous.functional import batch_to_space, in_phases, space_to_batch
from atrous.functional.phases import PHASES, find_phases

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def sliced(x, block):
    """The definition: one strided slice for each phase, the last axis fastest."""
    offsets = itertools.product(*map(range, block))
    return torch.cat([x[(..., *(slice(o, None, b) for o, b in zip(offset, block, strict=True)))] for offset in offsets])


def stack(x, weights, bias, dilation):
    """Layers with bias and ReLU, one by one, by torch's operator on an input padded by hand."""
    for weight in weights:
        pads = [d * (k // 2) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        x = CONV[len(dilation)](x, weight, bias, padding=pads, dilation=dilation).relu()
    return x


def phased(x, weights, bias, dilation, run=in_phases):
    conv = getattr(functional, f"conv{len(dilation)}d")
    layers = [lambda x, weight=weight: conv(x, weight, bias, padding="same").relu() for weight in weights]
    return run(x, layers, dilation)


def leaking(x, layers, dilation):
    """The published rewriting: padded once, and never zeroed again."""
    margin = [(0, -n % d) for n, d in zip(x.shape[2:], dilation, strict=True)]
    x = space_to_batch(x, dilation, margin)
    for layer in layers:
        x = layer(x)
    return batch_to_space(x, dilation, margin)


def drawn(size, layers=2, kernel=3, channels=2, dtype=torch.float64):
    weights = [torch.randn(channels, channels, *[kernel] * len(size), dtype=dtype) for _ in range(layers)]
    return torch.randn(2, channels, *size, dtype=dtype), weights, torch.randn(channels, dtype=dtype).abs() + 1


axis = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))  # block, cells, padding before


@settings(deadline=None, max_examples=40)
@given(axes=st.lists(axis, min_size=1, max_size=3), batch=st.integers(0, 3), channels=st.integers(1, 3))
def test_phases_are_strided_slices_there_and_back(axes, batch, channels):
    block = [b for b, _, _ in axes]
    paddings, size = [], []
    for b, cells, before in axes:
        inside = max(0, b * cells - before)
        size.append(inside)
        paddings.append((before, -(before + inside) % b))
    x = torch.randn(batch, channels, *size)
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *paddings]))
    phases = space_to_batch(x, block, paddings)
    assert torch.equal(phases, sliced(padded, block))
    assert torch.equal(batch_to_space(phases, block, paddings), x)


def test_one_block_for_all_axes_and_other_layouts():
    x = torch.randn(2, 4, 6, 3).movedim(-1, 1)
    assert not x.is_contiguous()
    assert torch.equal(space_to_batch(x, 2), sliced(x, (2, 2)))
    assert space_to_batch(torch.ones(1, 1, 4, dtype=torch.int64), 4).tolist() == [[[1]]] * 4
    assert torch.equal(batch_to_space(space_to_batch(x, 2), 2, ((1, 0), (0, 2))), x[:, :, 1:, :-2])


def test_derivatives_and_maps():
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    there = lambda x: space_to_batch(x, (3, 2), ((1, 0), (1, 1)))  # noqa: E731
    assert torch.autograd.gradcheck(there, x)
    assert torch.autograd.gradgradcheck(lambda x: there(x).pow(2), x)
    back = lambda y: batch_to_space(y, (3, 2), ((1, 0), (1, 1)))  # noqa: E731
    assert torch.autograd.gradcheck(back, there(x).detach().requires_grad_())
    xs = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(torch.vmap(there)(xs), torch.stack([there(x) for x in xs]))


@pytest.mark.parametrize("dilation", [2, 3])
@pytest.mark.parametrize("size", [12, 13])
def test_the_published_rewriting_leaks_and_this_one_does_not(size, dilation):
    """Two layers of 3 x 3 with a bias: 14.8 % of 13 x 13 are wrong at dilation 2, 28.4 % at 3, none of 12 x 12."""
    case = (*drawn((size, size)), (dilation, dilation))
    expected = stack(*case)
    torch.testing.assert_close(phased(*case), expected)
    wrong = ~torch.isclose(phased(*case, run=leaking), expected).flatten(0, 1).all(0)
    share = {(13, 2): 0.148, (13, 3): 0.284}.get((size, dilation), 0)
    assert round(wrong.double().mean().item(), 3) == share


case = st.tuples(st.integers(1, 11), st.integers(1, 5), st.sampled_from([1, 3, 5]))  # size, dilation, kernel


@settings(deadline=None, max_examples=40)
@given(axes=st.lists(case, min_size=1, max_size=3), layers=st.integers(0, 4))
def test_any_size_is_exact(axes, layers):
    size, dilation, kernel = zip(*axes, strict=True)
    weights = [torch.randn(2, 2, *kernel, dtype=torch.float64) / 4 for _ in range(layers)]
    x, bias = torch.randn(2, 2, *size, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    torch.testing.assert_close(phased(x, weights, bias, dilation), stack(x, weights, bias, dilation))


def test_gradients_are_those_of_the_layers():
    x, weights, bias = drawn((7, 8))
    leaves = [leaf.requires_grad_() for leaf in (x, *weights, bias)]
    runs = [run(x, weights, bias, (2, 3)) for run in (phased, stack)]
    grad = torch.randn_like(runs[0])
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves, grad) for y in runs))


def test_nothing_beyond_the_image_gets_in():
    """Not even what is no number: a layer that makes it of zeros does so beyond the image too."""
    x = torch.rand(1, 1, 5) + 1
    y = in_phases(x, [torch.log, lambda x: functional.conv1d(x, torch.ones(1, 1, 3), padding="same")], 2)
    torch.testing.assert_close(y, F.conv1d(x.log(), torch.ones(1, 1, 3), padding=2, dilation=2))


def test_channels_may_change_and_batches_may_be_empty():
    x = torch.randn(0, 2, 5)
    assert in_phases(x, [lambda x: functional.conv1d(x, torch.ones(4, 2, 3), padding="same")], 2).shape == (0, 4, 5)
    assert torch.equal(in_phases(torch.ones(1, 1, 3), [], 2), torch.ones(1, 1, 3))


def test_compile_and_export():
    torch.compiler.reset()
    x, weights, bias = drawn((13,))
    run = lambda x: phased(x, weights, bias, (4,))  # noqa: E731
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))

    class Module(torch.nn.Module):
        def forward(self, x):
            return run(x)

    program = torch.export.export(Module(), (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(program.module()(torch.cat([x, x])), run(torch.cat([x, x])))


def test_vmap():
    x, weights, bias = drawn((2, 7))
    xs = x.movedim(2, 0)
    mapped = torch.vmap(lambda x: phased(x, weights_1d, bias, (2,)))
    weights_1d = [weight[:, :, 0] for weight in weights]
    torch.testing.assert_close(mapped(xs), torch.stack([phased(x, weights_1d, bias, (2,)) for x in xs]))


@pytest.mark.parametrize("row", PHASES, ids=lambda row: row.cell)
def test_a_row_holds_for_the_cell_that_it_names(row):
    *_, shape, _, dilation = row.cell.split("-")
    _, channels, size = map(int, shape.split("x"))
    sizes, dilations = (size,) * row.ndim, (int(dilation[1:]),) * row.ndim
    assert find_phases([channels], sizes, dilations, recorded=True) == row
    assert find_phases([channels], sizes, dilations) == (None if row.recorded else row)


@pytest.mark.parametrize(
    ("channels", "size", "dilation"),
    [
        ((64, 1), (56, 56), (4, 4)),
        ((64, 256), (56, 56), (4, 4)),
        ((64,), (56, 56), (2, 2)),
        ((64,), (56, 56), (4, 1)),
        ((64,), (24, 24), (4, 4)),
        ((64,), (66, 66), (4, 4)),
        ((128,), (16, 16, 16), (4, 4, 4)),
        ((64,), (4096,), (16,)),
        ((64,), (16,) * 4, (4,) * 4),
    ],
    ids=str,
)
def test_what_was_slower_has_no_row(channels, size, dilation):
    assert find_phases(channels, size, dilation) is None


x = torch.ones(2, 1, 4, 6)
MESSAGES = [
    (space_to_batch, (x[0, 0], 2), ShapeError, "space_to_batch: input: got shape (4, 6), expected (B, C, *S)"),
    (space_to_batch, (x, 4), ShapeError, "got (4, 6) pixels, padding included, and blocks of (4, 4), expected whole"),
    (space_to_batch, (x, 2, ((0, 1), (0, 0))), ShapeError, "got (5, 6) pixels"),
    (space_to_batch, (x, 0), GeometryError, "space_to_batch: block: got (0, 0), expected integers of at least 1"),
    (space_to_batch, (x, (1, 2, 3)), GeometryError, "space_to_batch: block: got 3 entries"),
    (space_to_batch, (x, 2.0), GeometryError, "space_to_batch: block: got 2.0, expected integers"),
    (space_to_batch, (x, 2, 0), GeometryError, "paddings: got 0, expected a pair (before, after) of integers of at le"),
    (space_to_batch, (x, 2, ((0, 0),)), GeometryError, "paddings: got ((0, 0),), expected a pair (before, after)"),
    (space_to_batch, (x, 2, ((0, 0), (-2, 0))), GeometryError, "of at least 0 for each of 2 axes"),
    (space_to_batch, (x, 2, (0, 0)), GeometryError, "paddings: got (0, 0), expected a pair"),
    (space_to_batch, (x, 2, ((0, 0), ("a", 0))), GeometryError, "paddings: got ((0, 0), ('a', 0)), expected a pair"),
    (batch_to_space, (x[0], 2), ShapeError, "batch_to_space: got a batch of 1 and blocks of (2,), expected one entry"),
    (batch_to_space, (x, 2), ShapeError, "got a batch of 2 and blocks of (2, 2), expected one entry for each of 4 ph"),
    (batch_to_space, (x, (2, 1), ((5, 4), (0, 0))), ShapeError, "crops: got ((5, 4), (0, 0)) on an image of (8, 6)"),
    (batch_to_space, (x, -1), GeometryError, "batch_to_space: block: got (-1, -1)"),
    (batch_to_space, (x, 1, "valid"), GeometryError, "batch_to_space: crops: got valid, expected a pair"),
    (in_phases, (x[0, 0], [], 2), ShapeError, "in_phases: input: got shape (4, 6), expected (B, C, *S)"),
    (in_phases, (x, [], 0), GeometryError, "in_phases: dilation: got (0, 0), expected integers of at least 1"),
]


@pytest.mark.parametrize(
    ("call", "arguments", "error", "message"), MESSAGES, ids=[entry[-1][:50] for entry in MESSAGES]
)
def test_messages(call, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(*arguments)
