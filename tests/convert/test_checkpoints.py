"""What the `dcls` package has saved, loaded: its order of axes, its centres, its copies; and what does not fit."""

import re

import pytest
import torch

from atrous import CheckpointError, UnsupportedModule, nn
from atrous.convert import load_dcls
from atrous.recipe import share_positions

VERSIONS = ("v0", "v1", "max", "gauss")

every_version = pytest.mark.parametrize("version", VERSIONS)


def one_element(cls, size, position, version):
    """Return a layer of one element, and a file that puts it at `position` as the package means it."""
    dense = {"dense_kernel_size": 1} if "_" in cls.__name__ else {}
    layer = cls(1, 1, 1, dilated_kernel_size=size, bias=False, version=version, **dense)
    state = {"weight": torch.ones_like(layer.weight), "P": torch.tensor(position).view(layer.P.shape)}
    if layer.SIG is not None:
        state["SIG"] = torch.zeros_like(layer.SIG)
    return layer, state


def brightest(layer):
    """Return where the kernel of one element is largest, from the middle of the window."""
    kernel = layer.kernel()[0, 0]
    return [int(at) - size // 2 for at, size in zip((kernel == kernel.max()).nonzero()[0], kernel.shape, strict=True)]


def block(version="v0", count=3):
    layer = nn.Dcls2d(4, 4, count, padding="same", dilated_kernel_size=(5, 7), groups=4, version=version)
    return torch.nn.ModuleDict({"dwconv": layer, "norm": torch.nn.BatchNorm2d(4)})


def model(version="v0", tied=False):
    """Return two stages of two blocks, whose blocks have one P if tied, and a head."""
    stages = torch.nn.ModuleList(torch.nn.ModuleList(block(version) for _ in range(2)) for _ in range(2))
    if tied == "by share_positions":
        share_positions(stages, by=lambda name: name[0])
    elif tied:
        for first, second in stages:
            second["dwconv"].P = first["dwconv"].P
    return torch.nn.ModuleDict({"stages": stages, "head": torch.nn.Linear(4, 3)})


def saved(version="v0"):
    """Return what a model of the package saves whose stages have one P each: a copy for every block."""
    state = {name: torch.randn(value.shape) for name, value in model(version).state_dict().items()}
    for i in range(2):
        for name in ("P", "SIG") if version in ("max", "gauss") else ("P",):
            state[f"stages.{i}.1.dwconv.{name}"] = state[f"stages.{i}.0.dwconv.{name}"].clone()
    return {name: value.long() if "num_batches" in name else value for name, value in state.items()}


@pytest.mark.parametrize(
    ("cls", "size", "position", "v0", "others"),
    [
        (nn.Dcls1d, 5, [1.0], [1], [1]),
        (nn.Dcls2d, 5, [1.0, -2.0], [1, -2], [-2, 1]),
        (nn.Dcls2d, (3, 7), [1.0, -2.0], [1, -2], [0, -1]),
        (nn.Dcls2d, (4, 2), [-2.0, 0.0], [-2, 0], [-1, -1]),
        (nn.Dcls3d, 5, [2.0, 1.0, -1.0], [2, -1, 1], [-1, 1, 2]),
        (nn.Dcls3d, (3, 5, 9), [0.0, 1.0, -2.0], [0, 0, -1], [1, 1, -3]),
        (nn.Dcls2_1d, 5, [1.0], [0, 1], [0, 1]),
        (nn.Dcls3_1d, 5, [-2.0], [0, 0, -2], [0, 0, -2]),
    ],
    ids=str,
)
@every_version
def test_where_an_element_lies(cls, size, position, v0, others, version):
    layer, state = one_element(cls, size, position, version)
    report = load_dcls(layer, state, version=version)
    expected = v0 if version == "v0" else others
    assert layer.P.flatten().tolist() == expected[-layer.learned :]
    assert brightest(layer) == expected
    assert report.outside == {"": 0}


def test_widths_move_with_their_positions():
    layer, state = one_element(nn.Dcls3d, (3, 5, 7), [0.0, 0.0, 0.0], "gauss")
    state["SIG"] = torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1, 1)
    load_dcls(layer, state, version="gauss")
    assert layer.SIG.flatten().tolist() == torch.tensor([0.3, -0.2, 0.1]).tolist()


@pytest.mark.parametrize("version", ["max", "gauss"])
def test_rows_of_2_1d_against_the_formula(version):
    """Both widths of the package are |SIG| + 1 there, and it saves what it has computed of the window."""
    layer = nn.Dcls2_1d(2, 3, 4, dense_kernel_size=2, dilated_kernel_size=6, bias=False, version=version).double()
    state = {name: torch.randn(value.shape, dtype=torch.float64) for name, value in layer.state_dict().items()}
    away = torch.arange(6) - (state["P"][0].clamp(-3, 2) + 3).unsqueeze(-1)
    width = (state["SIG"][0].abs() + 1).unsqueeze(-1)
    parts = (-0.5 * (away / width) ** 2).exp() if version == "gauss" else (width - away.abs()).relu()
    parts = parts / (parts.sum(-1, keepdim=True) + 1e-7)
    cached = {"DCK.IDX": torch.arange(6), "DCK.lim": torch.tensor(6)}
    load_dcls(layer, state | cached, version=version)
    torch.testing.assert_close(layer.kernel(), (state["weight"].unsqueeze(-1) * parts).sum(3), rtol=1e-12, atol=1e-12)


def test_16_bits_are_not_rounded_again():
    layer, state = one_element(nn.Dcls2d, (3, 257), [0.1, 0.1], "v1")
    load_dcls(layer, {name: value.bfloat16() for name, value in state.items()}, version="v1")
    tenth = torch.tensor(0.1).bfloat16().item()
    assert layer.P.flatten().tolist() == [torch.tensor(tenth + 127).item(), torch.tensor(tenth - 127).item()]


@pytest.mark.parametrize("tied", [False, True, "by share_positions"])
@every_version
def test_a_model_and_the_copies_of_its_stages(version, tied):
    target, state = model(version, tied), saved(version)
    report = load_dcls(target, {"model": state, "epoch": 300}, version=version)
    assert list(report.elements) == [f"stages.{i}.{j}.dwconv" for i in range(2) for j in range(2)]
    for name, value in target.state_dict().items():
        if not name.endswith((".P", ".SIG")):
            assert torch.equal(value, state[name])
    for name, layer in ((name, target.get_submodule(name)) for name in report.elements):
        alone = nn.Dcls2d(4, 4, 3, padding="same", dilated_kernel_size=(5, 7), groups=4, version=version)
        load_dcls(alone, {key: state[f"{name}.{key}"] for key in alone.state_dict()}, version=version)
        assert torch.equal(layer.kernel(), alone.kernel())
    for first, second in target["stages"]:
        assert (first["dwconv"].P is second["dwconv"].P) == bool(tied)
        assert torch.equal(first["dwconv"].P, second["dwconv"].P)


def test_a_layer_by_two_names():
    layer = nn.Dcls1d(1, 1, 2, dilated_kernel_size=5)
    state = {name: torch.randn(value.shape) for name, value in layer.state_dict().items()}
    both = {f"{i}.{name}": value for i in range(2) for name, value in state.items()}
    report = load_dcls(torch.nn.Sequential(layer, layer), both, version="v1")
    assert report.elements == {"0": 2, "1": 2}
    assert torch.equal(layer.P, state["P"])


def test_positions_outside_are_counted_and_stay():
    layer = nn.Dcls2d(1, 1, 5, dilated_kernel_size=4, bias=False, version="v0")
    inside, even, far, nowhere = [1.0, -2.0], [2.0, 0.0], [-3.5, 9.0], [float("nan"), 0.0]
    positions = torch.tensor([inside, inside, even, far, nowhere]).T.reshape(2, 1, 1, 5)
    report = load_dcls(layer, {"weight": torch.ones(1, 1, 5), "P": positions}, version="v0")
    assert torch.equal(layer.P[..., :4], positions[..., :4])
    assert str(report) == "layer        version  elements  outside\n(the layer)  v0              5        3"
    assert report.to_dict() == {"version": "v0", "elements": {"": 5}, "outside": {"": 3}}


def changed(**entries):
    """Return a file in which these entries are others; None takes one out."""
    state = saved() | {name.replace("__", "."): value for name, value in entries.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("target", "state", "version", "error", "message"),
    [
        (model(), saved(), "v2", CheckpointError, "version: got 'v2', expected one of ('v0', 'v1', 'max', 'gauss')"),
        ("model", saved(), "v0", UnsupportedModule, "target: got a str, expected a torch.nn.Module"),
        (
            torch.nn.Linear(4, 3), saved(), "v0", UnsupportedModule,
            "target: got a Linear that holds no layer of learned spacings; load it by its load_state_dict",
        ),
        (
            torch.nn.Sequential(nn.Dcls3_2d(1, 1, 1, dilated_kernel_size=3)), {}, "v0", UnsupportedModule,
            "0: got a Dcls3_2d, which the dcls package does not have; load it by itself",
        ),
        (
            model(), saved(), "gauss", CheckpointError,
            "stages.0.0.dwconv: got a Dcls2d with interpolation 'bilinear', expected 'gaussian' for version 'gauss'; "
            "build it with version='gauss', or name the version of the file",
        ),
        (
            nn.Dcls1d(1, 1, 1, dilated_kernel_size=3, interpolation="bicubic"), {}, "v1", CheckpointError,
            "target: got a Dcls1d with interpolation 'bicubic', expected 'bilinear' for version 'v1'",
        ),
        (
            model(), "net.pth", "v0", CheckpointError,
            "state_dict: got a str, expected a dict of tensors by name; read a file by torch.load(path, weights_only",
        ),
        (
            model(), changed(head__bias=None, extra=torch.zeros(1)), "v0", CheckpointError,
            "state_dict: 1 entries (head.bias) missing, 1 entries (extra) not expected; build the target as",
        ),
        (
            model("max"), saved(), "max", CheckpointError,
            "4 entries (stages.0.0.dwconv.SIG, stages.0.1.dwconv.SIG, stages.1.0.dwconv.SIG, ...) missing, 0 entries "
            "not expected; build the target as the network of the file, whose version has SIG if it is 'max' or",
        ),
        (
            model(), changed(stages__1__1__dwconv__P=torch.zeros(2, 4, 1, 5)), "v0", CheckpointError,
            "stages.1.1.dwconv.P: got shape (2, 4, 1, 5), expected a tensor of shape (2, 4, 1, 3); build the target as",
        ),
        (
            model(), changed(head__bias=[0.0, 0.0, 0.0]), "v0", CheckpointError,
            "head.bias: got a list, expected a tensor of shape (3,)",
        ),
        (
            model("gauss", "by share_positions"), saved() | {"stages.0.0.dwconv.SIG": torch.zeros(2, 4, 1, 3)}, "gauss",
            CheckpointError, "3 entries (stages.1.0.dwconv.SIG, stages.0.1.dwconv.SIG, stages.1.1.dwconv.SIG) missing",
        ),
        (
            model(tied="by share_positions"), changed(stages__0__1__dwconv__P=torch.zeros(2, 4, 1, 3)), "v0",
            CheckpointError, "stages.0.1.dwconv.P: got another value than stages.0.0.dwconv.P, expected an equal copy",
        ),
        (
            model(tied=True), changed(stages__1__1__dwconv__P=torch.zeros(2, 4, 1, 3)), "v0", CheckpointError,
            "stages.1.1.dwconv.P: got another value than stages.1.0.dwconv.P, expected an equal copy: they are one "
            "parameter of the target; give each layer its own",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_messages_and_nothing_is_loaded(target, state, version, error, message):
    whole = isinstance(target, torch.nn.Module)
    before = {name: value.clone() for name, value in target.state_dict().items()} if whole else {}
    with pytest.raises(error, match="^load_dcls: .*" + re.escape(message)):
        load_dcls(target, state, version=version)
    after = target.state_dict() if whole else {}
    assert all(torch.equal(after[name], value) for name, value in before.items())
