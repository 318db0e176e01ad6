"""`merge_dilated_branches` folds blocks of our own and of other makes, and leaves the rest of a model as it was."""

import copy

import pytest
import torch

import atrous
from atrous import UnsupportedModule
from atrous.convert import merge_dilated_branches
from atrous.nn import DilatedBranches

IMAGE = torch.randn(2, 4, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Foreign(torch.nn.Module):
    """A block with the names of UniRepLKNet's, written by someone else."""

    def __init__(self, channels, size, branches, norm=torch.nn.BatchNorm2d):
        super().__init__()
        self.pairs = branches
        self.lk_origin = torch.nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False)
        self.origin_bn = norm(channels)
        for k, r in branches:
            options = {"padding": r * (k // 2), "dilation": r, "groups": channels, "bias": False}
            setattr(self, f"dil_conv_k{k}_{r}", torch.nn.Conv2d(channels, channels, k, **options))
            setattr(self, f"dil_bn_k{k}_{r}", norm(channels))

    def forward(self, x):
        y = self.origin_bn(self.lk_origin(x))
        for k, r in self.pairs:
            y = y + getattr(self, f"dil_bn_k{k}_{r}")(getattr(self, f"dil_conv_k{k}_{r}")(x))
        return y


def network():
    torch.manual_seed(0)
    foreign = Foreign(4, 13, ((5, 1), (7, 2), (3, 5)))
    model = torch.nn.Sequential(DilatedBranches(4, 7), torch.nn.GELU(), torch.nn.Sequential(foreign)).double()
    for _ in range(3):  # running statistics of their own
        model(torch.randn_like(IMAGE) * 2 + 1)
    return model.eval()


def test_the_model_computes_the_same_with_plain_convolutions():
    model = network()
    expected = model(IMAGE)
    assert merge_dilated_branches(model) is model
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-12, atol=1e-12)
    assert type(model[0]) is type(model[2][0]) is torch.nn.Conv2d
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert model[2][0].weight.shape == (4, 1, 13, 13)


def test_then_it_is_a_model_like_any_other():
    model = merge_dilated_branches(network())
    expected = model(IMAGE)
    program = torch.export.export(model, (IMAGE,))
    torch.testing.assert_close(program.module()(IMAGE), expected)
    assert [row.name for row in atrous.accelerate(model).changed] == ["0", "2.0"]
    torch.testing.assert_close(model(IMAGE), expected)


def test_weights_of_the_foreign_block_load_into_ours():
    foreign = network()[2][0]
    ours = DilatedBranches(4, 13, foreign.pairs, dtype=torch.float64).eval()
    ours.load_state_dict(foreign.state_dict())
    torch.testing.assert_close(ours(IMAGE), foreign(IMAGE))


def test_a_block_alone_and_one_under_two_names():
    block = network()[0]
    expected = block(IMAGE)
    both = torch.nn.ModuleDict({"a": block, "b": torch.nn.Sequential(block)})
    assert merge_dilated_branches(both)["a"] is both["b"][0]
    merged = merge_dilated_branches(block)
    assert type(merged) is torch.nn.Conv2d
    torch.testing.assert_close(merged(IMAGE), expected, rtol=1e-12, atol=1e-12)


def test_hooks_and_modes_stay():
    model, seen = network(), []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    model[2].train()
    merge_dilated_branches(model)
    model(IMAGE)
    handle.remove()
    model(IMAGE)
    assert seen == [1]
    assert (model[0].training, model[2][0].training) == (False, True)


def test_a_model_in_training_becomes_its_evaluation():
    model = network()
    expected = model(IMAGE)
    torch.testing.assert_close(merge_dilated_branches(model.train())(IMAGE), expected, rtol=1e-12, atol=1e-12)


def test_a_norm_without_weights_and_a_block_without_norms():
    model = Foreign(4, 5, ((3, 2),), lambda channels: torch.nn.BatchNorm2d(channels, affine=False)).double()
    model(IMAGE)
    expected = model.eval()(IMAGE)
    torch.testing.assert_close(merge_dilated_branches(model)(IMAGE), expected, rtol=1e-12, atol=1e-12)
    bare = DilatedBranches(4, 5, norm=False, dtype=torch.float64)
    torch.testing.assert_close(merge_dilated_branches(bare)(IMAGE), bare(IMAGE), rtol=1e-12, atol=1e-12)


def test_what_cannot_be_merged():
    with pytest.raises(UnsupportedModule, match=r"merge_dilated_branches: got a int, expected a torch.nn.Module"):
        merge_dilated_branches(1)
    with pytest.raises(UnsupportedModule, match=r"got a Linear without a block of dilated branches, expected at least"):
        merge_dilated_branches(torch.nn.Linear(1, 1))
    model = network()
    model[2][0].origin_bn = torch.nn.BatchNorm2d(4, track_running_stats=False)
    before = copy.deepcopy(model)
    with pytest.raises(
        UnsupportedModule, match=r"merge_dilated_branches: 2.0: lk_origin: got BatchNorm2d\(4.*statistics"
    ):
        merge_dilated_branches(model)
    assert repr(model) == repr(before)
