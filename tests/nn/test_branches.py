"""`DilatedBranches` is the sum of its branches, and folds into one convolution."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from atrous import GeometryError, UnsupportedModule, nn
from atrous.nn.branches import BRANCHES, fold

IMAGE = torch.randn(2, 3, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def block(*args, **options):
    """Return a block whose norms are no identities."""
    torch.manual_seed(0)
    made = nn.DilatedBranches(3, *args, **{"dtype": torch.float64, **options})
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            with torch.no_grad():
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.2, 3)
                norm.weight.normal_()
                norm.bias.normal_()
    return made.eval()


@pytest.mark.parametrize("size", BRANCHES)
def test_the_blocks_of_the_paper_fold(size):
    made = block(size)
    merged = made.merge()
    assert type(merged) is torch.nn.Conv2d
    assert merged.kernel_size == (size, size)
    torch.testing.assert_close(merged(IMAGE), made(IMAGE), rtol=1e-12, atol=1e-12)
    assert all(gap * (k - 1) + 1 <= size for k, gap in made.branches)


def test_the_sum_that_the_docstring_says():
    made = block(7, ((3, 2), (5, 1)))
    state = made.state_dict()

    def branch(conv, norm, gap):
        weight = state[f"{conv}.weight"]
        y = F.conv2d(IMAGE, weight, padding=gap * (weight.shape[-1] // 2), dilation=gap, groups=3)
        mean, var, scale, shift = (state[f"{norm}.{n}"][:, None, None] for n in STATE)
        return (y - mean) / (var + 1e-5).sqrt() * scale + shift

    expected = branch("lk_origin", "origin_bn", 1)
    expected = expected + branch("dil_conv_k3_2", "dil_bn_k3_2", 2) + branch("dil_conv_k5_1", "dil_bn_k5_1", 1)
    torch.testing.assert_close(made(IMAGE), expected)


STATE = ("running_mean", "running_var", "weight", "bias")


def test_without_norms_and_a_branch_wider_than_the_kernel():
    made = block(3, ((3, 1), (5, 3)), norm=False)
    assert [name for name in made.state_dict() if "bias" in name or "bn" in name] == ["lk_origin.bias"]
    merged = made.merge()
    assert merged.kernel_size == (13, 13)
    torch.testing.assert_close(merged(IMAGE), made(IMAGE), rtol=1e-12, atol=1e-12)
    alone = block(5, ())
    torch.testing.assert_close(alone.merge()(IMAGE), alone(IMAGE), rtol=1e-12, atol=1e-12)


def test_training_takes_the_statistics_of_the_batch():
    made = block(5).train()
    result = made(IMAGE)
    assert not torch.allclose(made.merge()(IMAGE), result)
    result.square().sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_life_of_a_module():
    torch.compiler.reset()
    made = block(7)
    expected = made(IMAGE)
    torch.testing.assert_close(copy.deepcopy(made)(IMAGE), expected)
    other = nn.DilatedBranches(3, 7, dtype=torch.float64).eval()
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other(IMAGE), expected)
    assert made(IMAGE[:0]).shape == IMAGE[:0].shape
    torch.testing.assert_close(made(IMAGE.mT.contiguous().mT), expected)
    torch.testing.assert_close(torch.compile(made, fullgraph=True, backend="aot_eager")(IMAGE), expected)
    torch.testing.assert_close(torch.export.export(made, (IMAGE,)).module()(IMAGE), expected)
    frozen = block(7).requires_grad_(False).merge()
    assert [p.requires_grad for p in (frozen.weight, made.merge().weight)] == [False, True]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            (4,),
            "DilatedBranches: kernel_size: got 4 without branches, expected one of (5, 7, 9, 11, 13, 15, 17); or name",
        ),
        ((8, ((3, 1),)), "DilatedBranches: got a kernel of 8 and branches ((3, 1),), expected odd kernel sizes"),
        ((7, ((4, 1),)), "and branches ((4, 1),), expected odd kernel sizes and each branch once"),
        ((7, ((3, 1), (3, 1))), "and branches ((3, 1), (3, 1)), expected odd kernel sizes and each branch once"),
        ((7, ((3, 0),)), "DilatedBranches: branches: got (0,), expected integers of at least 1"),
        ((-1, ((3, 1),)), "DilatedBranches: kernel_size: got (-1,), expected integers of at least 1"),
    ],
)
def test_arguments(args, message):
    with pytest.raises(GeometryError, match=re.escape(message)):
        nn.DilatedBranches(3, *args)
    with pytest.raises(GeometryError, match=re.escape("DilatedBranches: channels: got (0,), expected integers of at")):
        nn.DilatedBranches(0)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"padding": 0},
        {"kernel_size": 2, "padding": "same"},
        {"padding_mode": "circular"},
        {"groups": 1},
    ],
    ids=str,
)
def test_branches_that_do_not_fold(change):
    made = block(5)
    made.dil_conv_k3_1 = torch.nn.Conv2d(3, 3, **{"kernel_size": 3, "padding": 1, "groups": 3, **change})
    with pytest.raises(
        UnsupportedModule, match=r"here: dil_conv_k3_1: got Conv2d\(3, 3.*expected a depthwise Conv2d of"
    ):
        fold("here", made)


def test_norms_that_do_not_fold():
    made = block(5)
    made.origin_bn = torch.nn.BatchNorm2d(3, track_running_stats=False)
    with pytest.raises(
        UnsupportedModule, match=r"DilatedBranches: merge: lk_origin: got BatchNorm2d.*running statistics"
    ):
        made.merge()
    made.origin_bn = torch.nn.GroupNorm(1, 3)
    with pytest.raises(UnsupportedModule, match=r"got GroupNorm.*behind it, expected a batch norm with running"):
        made.merge()
