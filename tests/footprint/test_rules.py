"""Rules, one by one: what spans an axis, what has a fixed part, and rules of one's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import GeometryError, UnsupportedModule, functional, trace_footprint
from atrous.footprint import rule, rules
from atrous.footprint.graph import pixels_read

from .networks import Does, bits, claims_and_truth, truly_read

ONES = torch.rand(6, 6, dtype=torch.float64) + 0.1

# What runs on (1, 6, 5, 6), and which axes are then read as a whole.
SPANNING = {
    "layer norm over channels": (lambda x: F.layer_norm(x.movedim(1, -1), (6,)), (False, False)),
    "layer norm over the last axis": (lambda x: F.layer_norm(x, (6,)), (False, True)),
    "instance norm": (F.instance_norm, (True, True)),
    "group norm": (lambda x: F.group_norm(x, 2), (True, True)),
    "softmax over channels": (lambda x: x.softmax(1), (False, False)),
    "softmax over an axis": (lambda x: x.softmax(2), (True, False)),
    "cumsum": (lambda x: x.cumsum(3), (False, True)),
    "linear over the last axis": (lambda x: F.linear(x, ONES), (False, True)),
    "mean": (lambda x: x + x.mean((2,), keepdim=True), (True, False)),
    "channel sum": (lambda x: x.sum(1), (False, False)),
    "max": (lambda x: x - x.amax(3, keepdim=True), (False, True)),
    "global pooling": (lambda x: F.adaptive_avg_pool2d(x, 1) * x, (True, True)),
    "attention": (lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3), (True, True)),
    "matmul": (lambda x: x.flatten(2) @ x.flatten(2).mT, (True, True)),
    "transposed sum": (lambda x: x[..., :5] + x[..., :5].mT, (True, True)),
    "a weight from the image": (
        lambda x: F.conv2d(x, x.mean((2, 3))[:, :, None, None].expand(6, 6, 1, 1)),
        (True, True),
    ),
    "sort": (lambda x: x.sort(2).values, (True, False)),
    "gated by itself": (lambda x: F.glu(x, 3), (False, True)),
    "group norm over rows as channels": (lambda x: F.group_norm(x.movedim(2, 1), 1), (True, True)),
    "convolution over rows as channels": (lambda x: F.conv1d(x[:, :, :, 0].mT, ONES[:, :5, None]), (True, False)),
    "one number": (lambda x: x * x.mean().item(), (True, True)),
    "a mean beside its image": (lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1), (True, True)),
    "turned and joined": (lambda x: torch.cat([x[..., :5], x[..., :5].mT], 1), (True, True)),
    "turned and stacked": (lambda x: torch.stack([x[..., :5].mT, x[..., :5]], 1), (True, True)),
    "tokens joined": (lambda x: torch.cat([x.flatten(2), x.flatten(2)], 2), (True, True)),
}


@pytest.mark.parametrize(("run", "spans"), SPANNING.values(), ids=SPANNING)
def test_what_spans_an_axis(run, spans):
    shape = (1, 6, 5, 6)
    fp = trace_footprint(Does(run), torch.rand(shape, dtype=torch.float64))
    assert not any(rate is not None for rate, whole in zip(fp.stride, spans, strict=True) if whole)
    for axis, whole in enumerate(spans):
        table = pixels_read(fp.node, axis)
        if whole:
            assert len(set(table)) == 1


def lstm(x):
    state = torch.zeros(1, 5, 6, dtype=torch.float64)
    weights = [torch.cat([ONES] * 4) / 50] * 2 + [torch.zeros(24, dtype=torch.float64)] * 2
    return torch.lstm(x[0].movedim(0, -1), (state, state), weights, True, 1, 0.0, False, False, True)[0]


# Each on what torch is sure to change: never less than is read.
AT_MOST = {
    **{name: SPANNING[name][0] for name in ("layer norm over channels", "layer norm over the last axis", "group norm")},
    "instance norm": F.instance_norm,
    "softmax": lambda x: (x / 1e6).softmax(3),
    "patches": lambda x: F.fold(F.unfold(x, 2), (5, 6), 2),
    "sampled": lambda x: F.grid_sample(x, ONES[None, :5, :, None].expand(1, 5, 6, 2), align_corners=False),
    "lstm": lstm,
    "fft": lambda x: torch.fft.fft(x, dim=2).abs(),
    "rfft and back": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=2), n=5, dim=2),
    "fft in two axes": lambda x: torch.fft.fft2(x).abs(),
    "fft in the last two": lambda x: torch.fft.fftn(x, s=(5, 6)).real,
    "rfft in two axes and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * ONES[0, :4], s=(5, 6)),
    "fft over channels": lambda x: torch.fft.fftn(x, dim=(1,)).imag,
}


@pytest.mark.parametrize("run", AT_MOST.values(), ids=AT_MOST)
def test_never_less_than_is_read(run):
    for claimed, truth in claims_and_truth(run, (1, 6, 5, 6)):
        assert all(told >= read for told, read in zip(claimed, truth, strict=True))


def test_a_transform_reads_its_dims_alone():
    fp = trace_footprint(Does(lambda x: torch.fft.fft(x, dim=2).abs()), torch.zeros(1, 6, 5, 6))
    assert fp.globals == (True, False)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_differences(times):
    ((claimed, truth),) = claims_and_truth(lambda x: x.diff(n=times), (1, 1, 9))
    assert claimed == truth


def test_the_paths_of_a_second_difference():
    fp = trace_footprint(Does(lambda x: x.diff(n=2)), torch.zeros(1, 1, 9))
    assert fp.taps(0) == {0: 1, 1: 2, 2: 1}


def test_differences_with_more_at_the_ends():
    with pytest.raises(
        UnsupportedModule, match=r"calls aten\.diff with something joined to its ends, which has no rule"
    ):
        trace_footprint(Does(lambda x: x.diff(prepend=x)), torch.zeros(1, 1, 9))


@pytest.mark.parametrize(("mode", "before", "after"), [("nearest", 26, 22), ("nearest-exact", 14, 23)])
def test_what_torch_rounds_down_is_read_too(mode, before, after):
    """An output that lies on a pixel reads the one before it, where torch counts in single precision."""
    image = torch.arange(float(before))[None, None]

    def resize(x):
        return F.interpolate(x, size=after, mode=mode)

    fp = trace_footprint(Does(resize), image)
    truth, exact = resize(image)[0, 0].long().tolist(), resize(image.double())[0, 0].long().tolist()
    claimed = [bits(pixels) for pixels in pixels_read(fp.node, 0)]
    assert truth != exact
    assert all({one, other} <= told for one, other, told in zip(truth, exact, claimed, strict=True))
    assert max(map(len, claimed)) == 2
    assert sum(map(len, claimed)) <= after + 2


def test_global_pooling_reads_all_whatever_the_operator():
    fp = trace_footprint(nn.AdaptiveAvgPool2d(1), torch.zeros(1, 1, 5, 6))
    assert fp.receptive_field == (5, 6)
    assert fp.reads() == ((0, 5), (0, 6))


def test_scattered_taps_that_never_land_are_not_read():
    # The second lies outside along the second axis, so nothing of its first offset is read either.
    offsets = torch.tensor([[0, 0], [2, 50], [-1, 3]], dtype=torch.int32)
    shape = (1, 1, 7, 8)
    w = torch.rand(1, 1, 3, dtype=torch.float64) + 0.1
    network = Does(lambda x: functional.tap_conv(x, w, offsets))
    fp = trace_footprint(network, torch.rand(shape, dtype=torch.float64))
    assert fp.taps(0) == {0: 1, 1: 1}
    for axis in (0, 1):
        table = [bits(pixels) for pixels in pixels_read(fp.node, axis)]
        assert table == truly_read(network, shape, axis)


def test_an_operator_without_a_rule_is_named():
    class Sorts(nn.Module):
        def forward(self, x):
            return x.renorm(2, 1, 1.0)

    with pytest.raises(UnsupportedModule) as caught:
        trace_footprint(nn.Sequential(nn.Identity(), Sorts()), torch.zeros(1, 1, 5))
    assert str(caught.value) == (
        "trace_footprint: module '1' calls aten.renorm, which has no rule; "
        "write one with atrous.footprint.rule(torch.ops.aten.renorm)"
    )


def test_a_rule_of_ones_own(monkeypatch):
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))

    @rule(torch.ops.aten.renorm.default)
    def over_dim(call):
        return call.everything("self", [-1])

    fp = trace_footprint(Does(lambda x: x.renorm(2, 1, 1.0)), torch.zeros(1, 1, 5))
    assert fp.globals == (True,)


def test_a_rule_is_of_operators():
    with pytest.raises(GeometryError, match=r"rule: got <built-in .*>, expected an operator as torch\.ops\.aten\.relu"):
        rule(torch.relu)
