import torch

from atrous.testing import CONV_CASES, TAP_CASES


def test_names_are_unique_and_every_argument_is_touched():
    names = [case.name for case in CONV_CASES]
    assert len(set(names)) == len(names)
    assert {case.ndim for case in CONV_CASES} == {1, 2, 3}
    assert {case.layout for case in CONV_CASES} == {"contiguous", "channels_last", "strided"}
    for name in ("stride", "padding", "dilation", "groups", "batch", "bias"):
        assert len({str(getattr(case, name)) for case in CONV_CASES}) > 1


def test_tensors_are_the_same_in_every_dtype_and_lie_as_said():
    for case in CONV_CASES:
        exact, single = case.tensors(torch.float64), case.tensors(torch.float32)
        for a, b in zip(exact, single, strict=True):
            assert a is b is None or torch.equal(a.float(), b)
        if exact[0].numel():
            assert exact[0].is_contiguous() == (case.layout == "contiguous")


def test_taps_touch_every_argument():
    names = [case.name for case in TAP_CASES]
    assert len(set(names)) == len(names)
    assert {case.ndim for case in TAP_CASES} == {1, 2, 3}
    for name in ("stride", "upsample", "output_size", "groups", "batch", "bias", "per_pair", "layout"):
        assert len({str(getattr(case, name)) for case in TAP_CASES}) > 1
    for case in TAP_CASES:
        exact, single = case.tensors(torch.float64), case.tensors(torch.float32)
        for a, b in zip(exact, single, strict=True):
            assert a is b is None or torch.equal(a.to(b.dtype), b)
