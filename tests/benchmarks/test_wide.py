"""The suite names, judges and sums up cells of every data type, on invented times."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]


def _ours():
    return [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for name in _ours():  # another test may have left half of the package
        monkeypatch.delitem(sys.modules, name)
    from benchmarks import cells, competitors, measure, table

    yield SimpleNamespace(cells=cells, competitors=competitors, measure=measure, table=table)
    for name in _ours():
        del sys.modules[name]


def test_every_cell_has_a_name_of_its_own(benchmarks):
    names = [cell.name for cell in benchmarks.cells.GRIDS["wide"]]
    assert len(set(names)) == len(names)
    assert tuple(map(benchmarks.cells.Cell.parse, names)) == benchmarks.cells.GRIDS["wide"]
    assert {"8x96x56-k7-d4-last", "8x96x56-k7-d4-last-bf16", "8x384x14-k3-d4-f64", "1x32x112-k31-d4"} <= set(names)


@pytest.mark.parametrize("name", ["1x8x8-k3-d1-bf8", "1x8x8-k3-d1-bf16-last", "1x8x8-k3-d1-float64"])
def test_no_cell_has_such_a_name(name, benchmarks):
    with pytest.raises(ValueError, match="expected a name such as"):
        benchmarks.cells.Cell.parse(name)


@pytest.mark.parametrize("suffix", ["-bf16", "-last-bf16", "-last-f16"])
def test_in_16_bits_the_judge_is_float32(suffix, benchmarks):
    found = benchmarks.competitors.Competitors(benchmarks.cells.Cell.parse(f"2x8x9-k3-d2{suffix}"))
    input, weight, _ = found.tensors
    assert input.dtype in (torch.bfloat16, torch.float16)
    assert input.is_contiguous(memory_format=torch.channels_last if "last" in suffix else torch.contiguous_format)
    expected = torch.nn.functional.conv2d(
        input.float().contiguous(), weight.float().contiguous(), padding=2, dilation=2, groups=8
    )
    torch.testing.assert_close(found.judge("forward")(), expected)


@pytest.mark.parametrize("suffix", ["", "-last", "-f64"])
def test_elsewhere_the_first_competitor_is(suffix, benchmarks):
    assert (
        benchmarks.competitors.Competitors(benchmarks.cells.Cell.parse(f"2x8x9-k3-d2{suffix}")).judge("forward") is None
    )


@pytest.mark.parametrize(
    "name",
    [
        "t-1x4x5-k4-d1-s2", "t-1d-2to3-2x4x7-k3-d1-s2", "t-3d-2x4x3-k2-d1-s2", "t-3to2-1x6x4x5-k3-d2",
        "t-1x4x6-k16-d1-s8", "t-1x4x6-k3-d2-s2-bf16",
    ],
)  # fmt: skip
def test_everyone_computes_the_same_transposed_convolution(name, benchmarks):
    cell = benchmarks.cells.Cell.parse(name)
    assert cell.name == name
    found = benchmarks.competitors.Competitors(cell)
    for pass_ in ("forward", "backward"):
        results = []
        for who in ("stock", "forced", "routed"):
            result = found.make(pass_, who)()
            results.append([t for t in ([result] if pass_ == "forward" else result) if t is not None])
        if pass_ == "forward":
            assert results[0][0].shape[2:] == cell.output == tuple(size * cell.stride for size in cell.sizes)
        for result in results[1:]:
            shaped = [t.reshape_as(other) for t, other in zip(result, results[0], strict=True)]
            close = {"rtol": 2e-2, "atol": 5e-2} if cell.narrow else {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(shaped, results[0], **close)


def test_who_competes(benchmarks):
    names = {
        name: benchmarks.competitors.names(benchmarks.cells.Cell.parse(name), "forward", "wide")
        for name in ("1x8x8-k3-d1", "1x8x8-k3-d2", "1x8x8-k3-d2-bf16")
    }
    assert list(names.values()) == [
        ["stock", "forced", "routed"],
        ["stock", "forced", "routed", "forced_undilated"],
        ["stock", "forced", "routed", "forced_undilated", "forced_float32"],
    ]


@pytest.mark.parametrize(
    ("name", "error", "fault", "renewed"),
    [
        ("1x8x8-k3-d1", 0.9e-3, False, 0),
        ("1x8x8-k3-d1", 1.1e-3, True, 0),
        ("1x8x8-k3-d1-f64", 1e-9, True, 0),
        ("1x8x8-k3-d1-bf16", 0.015, False, 0),
        ("1x8x8-k3-d1-bf16", 0.016, True, 1),
        ("1x8x8-k3-d1-f16", math.nan, True, 1),
    ],
)
def test_a_wrong_result_is_not_timed(name, error, fault, renewed, benchmarks):
    answers = {"first": {"seconds": 1.0, "error": error}, "sample": {"seconds": 1.0, "before": 1.0, "after": 1.0}}
    calls = []
    session = SimpleNamespace(
        cell=benchmarks.cells.Cell.parse(name),
        ask=lambda what, **_: answers[what],
        judge=lambda answer, ratio: True,
        renew=lambda: calls.append("renew"),
    )
    found = benchmarks.measure.measure_pass(session, "forward", ["stock"], benchmarks.measure.Policy())["stock"]
    assert found == {"fault": f"WRONG, off by {error:.1e} of the maximum"} if fault else found["ms"] == 1e3
    assert len(calls) == renewed


def _side(ms):
    return {"ms": ms, "noisy": False}


def _entry(name, forced=1.0, **others):
    times = {"stock": 4.0, "forced": forced, "routed": 2.0, "forced_undilated": 0.5, "forced_float32": 0.8}
    pass_ = {who: _side(ms) for who, ms in times.items()} | others
    return {
        "name": name,
        "dtype": "whatever",
        "forward": pass_,
        "backward": {"stock": _side(1.0), "forced": _side(2.0)},
    }


def _run(threads, *entries):
    facts = {"torch": "2", "capability": "AVX512", "seconds": 1.0, "dense_gflops": 100.0, "copy_gbytes": 10.0}
    return facts | {
        "threads": threads, "probe_ms": {"best": 0.1, "median": 0.1}, "undisturbed": 1.0, "cells": list(entries)
    }  # fmt: skip


def _lines(benchmarks, *runs):
    results = {"machine": {"processor": "any"}, "date": "today", "grid": "wide", "runs": list(runs)}
    return benchmarks.table.markdown(results).splitlines()


def test_a_line_for_every_row(benchmarks):
    wrong = {"fault": "WRONG, off by 1.5e+00 of the maximum"}
    lines = _lines(
        benchmarks,
        _run(
            1,
            _entry("8x96x56-k7-d4-bf16"),
            _entry("8x384x14-k3-d2-bf16", stock=wrong),
            _entry("8x96x56-k3-d4-f64", forced_undilated={"fault": "RuntimeError: expected float32"}),
        ),
    )
    assert (
        "| bfloat16 contiguous | 2 | 6 | 4.00 (1) | 2.00 (1) | 0, 0 | 2.00 | 1.25, 1.25 "
        "| 25 | 0.50 | - | 2, - | - | - |" in lines
    )
    assert "| float64 | 1 | - | 4.00 | 2.00 | 0, 0 | - | 1.25, 1.25 | - | 0.50 | - | 1, - | - | - |" in lines
    assert "- float64, backward, forced, below 0.95: 8x96x56-k3-d4-f64 0.50" in lines
    slow = "8x384x14-k3-d2-bf16 {0}, 8x96x56-k7-d4-bf16 {0}"
    assert f"- bfloat16 contiguous, backward, forced, below 0.95: {slow.format('0.50')}" in lines
    for what in ("flat above 1.15: 8x96x56-k7-d4-bf16 2.00", "over float32 above 1.1: 8x96x56-k7-d4-bf16 1.25"):
        assert any(line.startswith(f"- bfloat16 contiguous, forward, {what}") for line in lines)
    cells = {line.split(" | ")[0]: line for line in lines if " | 1.000 | " in line}
    assert "| torch wrong | torch wrong | 2.00 | 1.25 |" in cells["| 8x384x14-k3-d2-bf16"]
    assert "- 8x384x14-k3-d2-bf16 forward stock: WRONG, off by 1.5e+00 of the maximum" in lines
    assert not any("2 threads over 1" in line for line in lines)


def test_a_transposed_cell_is_judged_by_rows_of_its_own(benchmarks):
    cells = [_entry(name) for name in ("t-8x96x28-k4-d1-s2", "t-64to64-4x64x14-k4-d1-s2")]
    results = {"machine": {"processor": "any"}, "date": "today", "grid": "routes", "runs": [_run(1, *cells)]}
    lines = benchmarks.table.markdown(results).splitlines()
    ends = [line.split(" | ")[-3:] for line in lines if line.startswith("| t-")]
    assert ends == [
        ["cpu, cpu", "t-8x96x28-k4-d1-s2", "wrong side: backward |"],
        ["aten, aten", "-", "wrong side: forward |"],
    ]
    (absent,) = [line for line in lines if line.startswith("Rows of the table whose cell is not among these")]
    assert " t-8to8-4x64x28-k4-d1-s2-f64," in absent
    assert " t-8x96x28-k4-d1-s2," not in absent


def test_two_threads_over_one(benchmarks):
    small, large = "8x384x14-k3-d2-last", "8x96x56-k7-d4-last"
    runs = [_run(n, _entry(small, forced=1 / n), _entry(large, forced=1.8 / n)) for n in (1, 2)]
    lines = _lines(benchmarks, *runs[::-1])
    assert (
        lines[lines.index("### 2 threads over 1") :][-1] == "| float32 channels_last | 1 | 2.00 | 2.00 | 1.00 | 1.00 |"
    )
