import copy
import re

import pytest
import torch

from atrous import ShapeError, UnsupportedModule, functional, nn
from atrous.convert import fuse, fuse_same_rate

IMAGE = torch.randn(1, 32, 32, 32)


def convolution(dilation=4, **options):
    return torch.nn.Conv2d(32, 32, 3, padding=dilation, dilation=dilation, **options)


@pytest.fixture
def model():
    body = torch.nn.Sequential(convolution(), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), convolution())
    return torch.nn.Sequential(torch.nn.Conv2d(32, 32, 1), body, torch.nn.ReLU(), convolution(2), convolution(2)).eval()


@pytest.fixture
def seconds(monkeypatch):
    """Let a run in phases seem to take 1 s, layer by layer as long as is said; layers also tell what ran."""
    told = {"layers": 2.0}

    def pretend(run, input):
        run(input)
        return 1.0 if run.phases else told["layers"]

    monkeypatch.setattr(fuse, "_seconds", pretend)
    return told


def rows(part):
    return {row.name: row.reason for row in part}


def test_what_the_table_names_changes_its_class_alone(model):
    before = dict(model.named_modules()), list(model.state_dict())
    original = copy.deepcopy(model)
    report = fuse_same_rate(model, IMAGE)
    assert rows(report.changed) == dict.fromkeys(["1.0", "1.3"], "run of 2: phases are faster (4x32x56-k3-d8)")
    assert rows(report.kept) == {
        "0": "not plain, dilated, of stride 1 and 'same'",
        "3": "run of 2: no row of the table",
        "4": "run of 2: no row of the table",
    }
    assert (type(model), model.phases) == (nn.PhasedSequential, None)
    assert type(model[1]) is torch.nn.Sequential
    assert (dict(model.named_modules()), list(model.state_dict())) == before
    torch.testing.assert_close(model(IMAGE), original(IMAGE), rtol=1e-4, atol=1e-5)
    for other in (model.train(), original.train()):
        other.zero_grad()
        other(IMAGE).square().mean().backward()
    for ours, theirs in zip(model.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_fused_run_goes_through_phases(model, monkeypatch):
    fuse_same_rate(model, IMAGE)
    calls, run = [], functional.in_phases
    monkeypatch.setattr(functional, "in_phases", lambda *args: calls.append(len(args[1])) or run(*args))
    model(IMAGE)
    model(IMAGE[:, :, :9, :9])
    assert calls == [4]


def test_what_is_measured_to_be_faster_stays(model, seconds):
    report = fuse_same_rate(model, IMAGE, measure=True)
    assert rows(report.changed) == dict.fromkeys(
        ["1.0", "1.3", "3", "4"], "run of 2: phases take 2e+03 ms, layers 4e+03 ms"
    )
    assert [type(one) for one in (model, model[1])] == [nn.PhasedSequential, torch.nn.Sequential]
    assert model.phases is True


def test_what_is_measured_to_be_slower_does_not(model, seconds):
    seconds["layers"] = 1.04
    report = fuse_same_rate(model, IMAGE, measure=True)
    assert not report.changed
    assert rows(report.kept)["1.0"] == "run of 2: phases take 2e+03 ms, layers 2.08e+03 ms"
    assert [type(one) for one in (model, model[1])] == [torch.nn.Sequential] * 2


def test_times_are_taken():
    model = torch.nn.Sequential(convolution(2, dtype=torch.float64), convolution(2, dtype=torch.float64))
    report = fuse_same_rate(model, IMAGE.double(), measure=True)
    (reason,) = {row.reason for row in report.changed + report.kept}
    assert re.fullmatch(r"run of 2: phases take [\d.e+]+ ms, layers [\d.e+]+ ms", reason)


def block(dilation=4):
    """As most networks are written."""
    return torch.nn.Sequential(convolution(dilation), torch.nn.BatchNorm2d(32), torch.nn.ReLU())


def test_a_run_of_blocks(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Conv2d(32, 32, 1), torch.nn.Sequential(block(), block()), block()).eval()
    names, expected = list(model.state_dict()), model(IMAGE)
    report = fuse_same_rate(model, IMAGE)
    assert rows(report.changed) == dict.fromkeys(
        ["1.0.0", "1.1.0", "2.0"], "run of 3: phases are faster (4x32x56-k3-d8)"
    )
    assert [type(one) for one in (model, model[1], model[2])] == [nn.PhasedSequential, *[torch.nn.Sequential] * 2]
    calls, run = [], functional.in_phases
    monkeypatch.setattr(functional, "in_phases", lambda *args: calls.append(len(args[1])) or run(*args))
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert calls == [7]
    assert list(model.state_dict()) == names


def test_blocks_that_are_called_one_by_one():
    model = Sliced()
    model.body = torch.nn.Sequential(torch.nn.Sequential(block(), block()), block()).eval()
    assert list(rows(fuse_same_rate(model, IMAGE).changed)) == ["body.0.0.0", "body.0.1.0"]
    assert [type(one) for one in (model.body, model.body[0])] == [torch.nn.Sequential, nn.PhasedSequential]


def test_a_second_time_changes_nothing():
    model = torch.nn.Sequential(torch.nn.Sequential(convolution(), convolution()), convolution())
    assert len(fuse_same_rate(model, IMAGE).changed) == 3
    kinds = [type(module) for module in model.modules()]
    assert not fuse_same_rate(model, IMAGE).changed
    assert [type(module) for module in model.modules()] == kinds


class Shared(torch.nn.Module):
    """A block that a sequence runs, and that runs by itself too."""

    def __init__(self):
        super().__init__()
        self.block = torch.nn.Sequential(convolution(), torch.nn.ReLU(), convolution())
        self.body = torch.nn.Sequential(self.block, torch.nn.ReLU())

    def forward(self, x):
        return self.body(x) + self.block(x)


def test_a_block_that_also_runs_by_itself(monkeypatch):
    model = Shared()
    expected = model(IMAGE)
    assert len(fuse_same_rate(model, IMAGE).changed) == 2
    calls, run = [], functional.in_phases
    monkeypatch.setattr(functional, "in_phases", lambda *args: calls.append(len(args[1])) or run(*args))
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert calls == [3, 3]


class Block(torch.nn.Module):
    """Two layers that no sequence holds; `residual` reads the first output twice."""

    def __init__(self, residual):
        super().__init__()
        self.first, self.second, self.residual = convolution(), convolution(), residual

    def forward(self, x):
        x = torch.relu(self.first(x) + 1)
        y = self.second(x)
        return x + y if self.residual else y


class Sliced(torch.nn.Module):
    """A sequence whose parts are called."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(convolution(), convolution())

    def forward(self, x):
        for layer in self.body:
            x = layer(x)
        return x


class Own(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


ELSEWHERE = "its run of 2 is in no plain torch.nn.Sequential without hooks"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Block(residual=False), ELSEWHERE),
        (lambda: Block(residual=True), "no neighbour of its dilation"),
        (Sliced, ELSEWHERE),
        (lambda: Own(convolution(), convolution()), ELSEWHERE),
        (lambda: nn.PhasedSequential(convolution(), convolution()), ELSEWHERE),
        (lambda: torch.nn.Sequential(convolution(), torch.nn.MaxPool2d(3, 1, 1), convolution()), "no neighbour of its"),
        (
            lambda: torch.nn.Sequential(convolution(), torch.nn.Softmax(2), convolution()),
            "no neighbour of its dilation",
        ),
        (lambda: torch.nn.Sequential(convolution(), convolution(8)), "no neighbour of its dilation"),
        (lambda: torch.nn.Sequential(convolution(padding_mode="reflect"), convolution()), "n"),
    ],
    ids=["block", "residual", "sliced", "own", "phased", "pool", "softmax", "dilations", "reflect"],
)
def test_runs_that_are_found_and_kept_or_none_at_all(make, reason):
    model = make()
    kinds = [type(module) for module in model.modules()]
    report = fuse_same_rate(model, IMAGE)
    assert not report.changed
    assert [row.reason.startswith(reason) for row in report.kept] == [True, True]
    assert [type(module) for module in model.modules()] == kinds


def test_layers_of_several_nodes_are_one(monkeypatch):
    """Depthwise layers of this library may be a sum over taps or a pad and a convolution in the graph."""
    layers = [nn.Conv2d(32, 32, 3, padding="same", dilation=4, groups=32) for _ in range(3)]
    block = Block(residual=False)
    block.first, block.second = layers[0], torch.nn.Sequential(*layers[1:])
    report = fuse_same_rate(block, IMAGE)
    assert rows(report.kept) == {
        "first": ELSEWHERE.replace("2", "3"),
        "second.0": "run of 2: no row of the table",
        "second.1": "run of 2: no row of the table",
    }


def test_a_hook_keeps_its_images(model):
    shapes = []
    model[1][2].register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    report = fuse_same_rate(model, IMAGE)
    assert rows(report.kept)["1.0"] == ELSEWHERE
    assert set(shapes) == {(1, 32, 32, 32)}
    assert not model[1]._forward_pre_hooks


class Twice(torch.nn.Module):
    """The same layers again, on another size; what they got first is what counts."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(convolution(), convolution())

    def forward(self, x):
        return self.body(self.body(x)[:, :, ::4, ::4])


def test_layers_that_run_twice():
    model = Twice()
    expected = model(IMAGE)
    assert len(fuse_same_rate(model, IMAGE).changed) == 2
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_training_count():
    layers = [torch.nn.Conv3d(16, 16, 3, padding=2, dilation=2) for _ in range(2)]
    model = torch.nn.Sequential(*layers)
    volume = torch.randn(1, 16, 16, 16, 16)
    assert len(fuse_same_rate(model, volume).changed) == 2
    model.requires_grad_(False)
    model.__class__ = torch.nn.Sequential
    assert not fuse_same_rate(model, volume).changed


def test_bad_input(model):
    with pytest.raises(UnsupportedModule, match=r"fuse_same_rate: got a int, expected a torch.nn.Module"):
        fuse_same_rate(1)
    with pytest.raises(ShapeError, match=r"trace_footprint: got no example input"):
        fuse_same_rate(model)
