"""Backends chosen by timing them."""

import importlib
import json

import pytest
import torch

import atrous
from atrous import DataError, UnsupportedModule
from atrous._backends import measured
from atrous._backends.triton import tiles
from atrous.convert import forget_timings
from atrous.convert.rivals import Passes
from atrous.convert.timings import machine, save

tune_module = importlib.import_module("atrous.convert.tune")  # the name is that of the function


class Two(torch.nn.Module):
    """A call of its own, before and after one of a child."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 1, 3))
        self.child = torch.nn.Conv1d(6, 6, 5, padding=2, groups=6)

    def forward(self, x):
        x = atrous.functional.conv1d(x, self.weight, padding="same", groups=6)
        return atrous.functional.conv1d(self.child(x), self.weight, padding="same", groups=6)


def _network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 4, 7, padding=12, dilation=4, groups=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 7, padding=12, dilation=4, groups=4),
        torch.nn.ConvTranspose2d(4, 4, 2, stride=2),
        atrous.nn.Dcls2d(4, 4, 5, dilated_kernel_size=17, padding="same", groups=4),
    )


X = torch.randn(2, 4, 24, 24)


def _say(monkeypatch, **milliseconds):
    """Let everything take so long, forward and backward, by such a backend."""
    monkeypatch.setattr(tune_module, "_time", lambda *_: {name: (ms, ms) for name, ms in milliseconds.items()})


def test_every_class_of_calls_is_timed_once_and_served():
    model = _network()
    before = model(X)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tuning = atrous.tune(model, X)
    assert [row.names for row in tuning.rows] == [("0", "2"), ("3",), ("4",)]
    assert all({*row.milliseconds} == {"aten", "cpu"} for row in tuning.rows)
    assert all(min(times) > 0 for row in tuning.rows for times in row.milliseconds.values())
    lines = atrous.explain(model, X).splitlines()
    first = tuning.rows[0]
    for line in [line for line in lines if "(4, 1, 7, 7)" in line and first.forward == first.backward]:
        assert f"runs on '{first.forward}', because it was the fastest when measured here" in line
    torch.testing.assert_close(model(X), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dict(model.state_dict()), state)
    assert "conv of (2, 4, 24, 24) by (4, 1, 7, 7), dilation 4, groups 4" in str(tuning)
    assert "0 and 1 more" in str(tuning)


@pytest.mark.parametrize(("taps", "kind"), [(1.0, atrous.nn.Conv2d), (3.0, torch.nn.Conv2d)])
def test_a_convolution_of_torch_becomes_its_twin_where_that_pays(monkeypatch, taps, kind):
    _say(monkeypatch, aten=2.0, cpu=taps)
    model = _network()
    tuning = atrous.tune(model, X)
    assert type(model[0]) is type(model[2]) is kind
    assert tuning.rows[0].forward == ("cpu" if taps < 2 else "aten")
    assert type(atrous.restore(model)[0]) is torch.nn.Conv2d


def test_calls_have_the_names_of_their_makers(monkeypatch):
    _say(monkeypatch, aten=2.0, cpu=1.0)
    rows = atrous.tune(torch.nn.Sequential(Two()), torch.randn(1, 6, 40)).rows
    assert [(row.names, row.what) for row in rows] == [
        (("0",), "conv of (1, 6, 40) by (6, 1, 3), groups 6"),
        (("0.child",), "conv of (1, 6, 40) by (6, 1, 5), groups 6"),
    ]


def test_a_file_is_read_and_completed(monkeypatch, tmp_path):
    file = tmp_path / "folder" / "tuned.json"
    _say(monkeypatch, aten=2.0, cpu=1.0)
    tuning = atrous.tune(_network(), X, file=file)
    measured.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # another machine, as far as timings go: those of this process count no more
    _say(monkeypatch, aten=1.0, cpu=2.0)
    assert atrous.tune(_network(), X, file=file).rows[0].forward == "aten"
    torch.set_num_threads(threads)
    monkeypatch.setattr(tune_module, "_time", lambda *_: pytest.fail("timed again"))
    model = _network()
    assert atrous.tune(model, X, file=file).rows == tuning.rows
    assert type(model[0]) is atrous.nn.Conv2d
    machines = json.loads(file.read_text())["machines"]
    assert len(machines) == 2
    assert [len(known["calls"]) for known in machines.values()] == [3, 4]  # with the dense kernel that won there


def test_an_interruption_keeps_what_was_timed_and_the_model(monkeypatch, tmp_path):
    file = tmp_path / "tuned.json"
    times = iter([{"aten": (2.0, 2.0), "cpu": (1.0, 1.0)}])
    monkeypatch.setattr(tune_module, "_time", lambda *_: next(times))
    model = _network()
    with pytest.raises(StopIteration):
        atrous.tune(model, X, file=file)
    assert type(model[0]) is torch.nn.Conv2d
    ((known,),) = ([machine["calls"] for machine in json.loads(file.read_text())["machines"].values()],)
    assert len(known) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "JSONDecodeError"),
        ("\udcff", "UnicodeDecodeError"),
        ("[]", "TypeError"),
        ('{"format": 2}', "its format is 2, expected 1"),
    ],
)
def test_a_file_of_something_else(tmp_path, text, reason):
    file = tmp_path / "tuned.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=f"tuned.json: got no timings of atrous.tune .*{reason}.*name another file"):
        atrous.tune(_network(), X, file=file)
    assert file.read_text(errors="surrogateescape") == text


CALL = ["conv", "cpu", "float32", [3], [1], [1], 1, 1, 1, False, 0, 8]


@pytest.mark.parametrize(
    "calls",
    [[[["conv"], {}]], [[CALL, {"cpu": [1, 1]}]], [[CALL, {"aten": [1, 1], "fast": [0, 0]}]], [[CALL, {"aten": 1}]]],
)
def test_entries_of_another_kind(tmp_path, calls):
    file = tmp_path / "tuned.json"
    known = {"calls": [[CALL, {"aten": [1, 1]}], *calls], "tiles": []}
    file.write_text(json.dumps({"format": 1, "machines": {machine("cpu"): known}}))
    with pytest.raises(DataError, match="got no timings of atrous"):
        atrous.tune(_network(), X, file=file)
    assert not measured.timings
    assert not measured.won


def test_what_another_process_wrote_meanwhile_stays(monkeypatch, tmp_path):
    file = tmp_path / "tuned.json"
    _say(monkeypatch, aten=2.0, cpu=1.0)
    atrous.tune(_network(), X, file=file)
    forget_timings()
    save(file)
    atrous.tune(torch.nn.Conv1d(3, 3, 3), torch.zeros(1, 3, 9))
    save(file)
    ((known,),) = ([one["calls"] for one in json.loads(file.read_text())["machines"].values()],)
    assert len(known) == 4


def test_no_module():
    with pytest.raises(UnsupportedModule, match="tune: got a int"):
        atrous.tune(3, X)


def test_a_lazy_module():
    with pytest.raises(UnsupportedModule, match="tune: 0: got a LazyConv1d whose channels are not known before"):
        atrous.tune(torch.nn.Sequential(torch.nn.LazyConv1d(2, 3)), torch.zeros(1, 3, 9))


def test_nothing_to_time():
    model = torch.nn.Linear(3, 3)
    assert str(atrous.tune(model, torch.zeros(1, 3))) == "no convolution that another backend could run"
    model = atrous.nn.Conv1d(1, 1, 3, dtype=torch.complex64)
    assert atrous.tune(model, torch.zeros(1, 1, 9, dtype=torch.complex64)).rows == ()


def test_torch_gets_nothing_back_that_it_computes_wrongly(monkeypatch):
    _say(monkeypatch, aten=1.0, cpu=2.0)
    model = torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
    atrous.tune(model, X)
    assert type(model) is torch.nn.Conv2d
    with torch.autocast("cpu", torch.bfloat16):
        atrous.tune(model, X)
    assert type(model) is atrous.nn.Conv2d


def test_a_memory_format_is_not_changed(monkeypatch):
    _say(monkeypatch, aten=2.0, cpu=1.0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=8))
    model, image = model.to(memory_format=torch.channels_last), torch.randn(2, 1, 16, 16)
    image = image.to(memory_format=torch.channels_last)
    before = model(image)
    tuning = atrous.tune(model, image)
    assert [row.names for row in tuning.rows] == [("1",)]
    assert model(image).stride() == before.stride()
    assert atrous.explain(model, image).endswith("runs on 'cpu', because it was the fastest when measured here.")


def test_learned_positions_end_with_the_calls_that_are_made(monkeypatch):
    model = torch.nn.Sequential(atrous.nn.Dcls2d(4, 4, 5, dilated_kernel_size=17, padding="same", groups=4))
    monkeypatch.setattr(tune_module, "_time", lambda call, _: {"aten": (1.0, 1.0), "cpu": (2.0, 2.0)})
    rows = atrous.tune(model, X).rows
    assert sorted(row.what.split()[0] for row in rows) == ["conv", "dcls"]  # and once more: the dense kernel is timed
    monkeypatch.setattr(tune_module, "_time", lambda *_: pytest.fail("timed again"))
    assert atrous.tune(model, X).rows == rows


def test_the_generator_stays_where_it_was():
    model = torch.nn.Conv1d(3, 3, 3)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    atrous.tune(model, torch.zeros(1, 3, 9))
    assert torch.rand(1) == expected


class Direct(torch.nn.Module):
    """Calls a child as nobody should."""

    def __init__(self):
        super().__init__()
        self.child = torch.nn.Conv1d(6, 6, 5, padding=2, groups=6)

    def __call__(self, x):
        return self.child.forward(x)


def test_makers_that_cannot_be_known(monkeypatch):
    _say(monkeypatch, aten=2.0, cpu=1.0)
    model = Direct()
    assert atrous.tune(torch.nn.Sequential(model), torch.randn(1, 6, 40)).rows[0].names == ("",)
    assert type(model.child) is atrous.nn.Conv1d


def test_a_model_that_reads_values():
    model = torch.nn.Sequential(torch.nn.Conv1d(3, 3, 3))
    model.register_forward_hook(lambda module, args, output: output[0, 0, 0].item())
    with pytest.raises(UnsupportedModule, match="Sequential: got a call that reads values of its tensors"):
        atrous.tune(model, torch.zeros(1, 3, 9))
    assert type(model[0]) is torch.nn.Conv1d


def test_a_tile_that_does_not_fit_is_left_out(monkeypatch):
    class OutOfResources(Exception):  # noqa: N818 - as Triton calls it
        pass

    launch = tiles.Launch("tap_conv", False, "float32", 9, 8, 1024)
    first, second, *_ = tiles.CANDIDATES["tap_conv", False]
    monkeypatch.setattr(tiles, "won", {})

    def race(runs):
        (tile,) = runs
        if tile == first:
            raise OutOfResources
        if tile != second:
            raise KeyboardInterrupt
        return {tile: 1.0}

    monkeypatch.setattr(tune_module, "_race", race)
    with pytest.raises(KeyboardInterrupt):
        tune_module._choose_tiles(lambda: tiles.find(launch))
    assert not tiles.won
    monkeypatch.setattr(tiles, "CANDIDATES", {("tap_conv", False): [first, second]})
    tune_module._choose_tiles(lambda: tiles.find(launch))
    assert tiles.won == {launch: second}


def test_plain_data(monkeypatch):
    _say(monkeypatch, aten=2.0, cpu=1.0)
    (row,) = atrous.tune(torch.nn.Conv1d(3, 3, 3), torch.zeros(1, 3, 9)).to_dict()["rows"]
    assert row["names"] == ("",)
    assert row["milliseconds"] == {"aten": (2.0, 2.0), "cpu": (1.0, 1.0)}


def test_autocast_counts(monkeypatch):
    _say(monkeypatch, aten=2.0, cpu=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        atrous.tune(_network(), X)
    assert {call.dtype for call in measured.timings} == {"bfloat16"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_sides_of_a_race_run_what_the_model_runs(layout):
    model, x = _network(), X.to(memory_format=layout)
    for module in (model[0], model[2], model[3]):
        module.__class__ = getattr(atrous.nn, type(module).__name__)
    with measured.watched() as calls:
        atrous.explain(model, x)
    seen = []
    for call, example in calls:
        for backend in ("aten", "cpu"):
            passes = Passes(call, example, backend)
            gradients = passes.backward()
            assert passes.forward().shape == passes.output.shape
            assert gradients[0].shape == example.input
            seen.append((call.operation, tuple(gradients[1].shape)))
    by_taps = [shape for operation, shape in seen if operation == "dcls"]
    assert by_taps == [(4, 1, 17, 17), (4, 1, 20)] * (len(by_taps) // 2)
    assert {operation for operation, _ in seen} == {"conv", "conv_transpose", "dcls"}


def test_the_fastest_tile_of_every_launch_is_kept(monkeypatch):
    launch = tiles.Launch("tap_conv", False, "float32", 9, 8, 1024)
    best = tiles.CANDIDATES["tap_conv", False][2]
    monkeypatch.setattr(tiles, "won", {})
    monkeypatch.setattr(tune_module, "_race", lambda runs: {tile: float(run() != best) for tile, run in runs.items()})
    tune_module._choose_tiles(lambda: tiles.find(launch))
    assert tiles.won == {launch: best}
    tune_module._choose_tiles(lambda: tiles.find(launch))  # and nothing is raced twice
    assert tiles.find(launch) == best
