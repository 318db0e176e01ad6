import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from atrous import DataError
from atrous.nn.dcls import _Dcls
from atrous.train import experiment
from atrous.train.config import ClassifyRecipe
from atrous.train.data.patches import TexturePatches
from atrous.train.data.source import Splits
from atrous.train.experiment import KERNELS, Budget, build, run_experiment

LITTLE = Budget(depths=(2, 1), dims=(4, 8), epochs=1, steps_per_epoch=2, recipe={"batch_size": 8}, lengths=(32, 8, 16))
PATCHES = Splits(*(TexturePatches(split, 8) for split in ("train", "val", "test")))


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    return folder, run_experiment("textures", folder, seeds=2, kernels=["plain", "bilinear"], jobs=1, budget=LITTLE)


def test_every_kernel_has_scores_of_every_seed(found):
    folder, result = found
    assert [one.title for one in result.contenders] == ["plain 7x7", "DCLS bilinear"]
    assert result.headings == ("clean", "noise", "blur", "contrast", "jpeg")
    assert all(len(scores) == 2 for one in result.contenders for scores in one.scores.values())
    assert all(0 <= score <= 1 for one in result.contenders for scores in one.scores.values() for score in scores)
    assert all(one.milliseconds > 0 for one in result.contenders)
    written = json.loads((folder / "comparison.json").read_text())
    assert written["contenders"] == json.loads(json.dumps(result.to_dict()["contenders"]))
    assert written["versions"]["torch"] == torch.__version__
    for picture in ("comparison", "fields", "movement_bilinear"):
        with Image.open(folder / f"{picture}.png") as image:
            assert min(image.size) > 150
    assert not (folder / "movement_plain.png").exists()


def test_a_second_call_goes_on(found, monkeypatch):
    folder, result = found
    (folder / "bilinear_1" / "scores.json").unlink()
    runs = []
    whole = experiment._run

    def counted(*arguments):
        runs.append(arguments[-1])
        whole(*arguments)

    monkeypatch.setattr(experiment, "_run", counted)
    again = run_experiment("textures", folder, seeds=2, kernels=["plain", "bilinear"], jobs=1, budget=LITTLE)
    assert runs == [("bilinear", 1)]
    assert again == result


def test_a_run_in_a_process_of_its_own_scores_the_same(found, tmp_path):
    _, result = found
    again = run_experiment("textures", tmp_path, seeds=1, kernels=["plain"], jobs=2, budget=LITTLE)
    first = {heading: scores[:1] for heading, scores in result.contenders[0].scores.items()}
    assert again.contenders[0].scores == first
    assert "Testing" in (tmp_path / "plain_0" / "log.txt").read_text()


def test_another_experiment_is_not_mixed_in(found):
    folder, _ = found
    other = replace(LITTLE, epochs=2)
    with pytest.raises(DataError, match=r"holds an experiment with epochs 1, got 2; choose another folder"):
        run_experiment("textures", folder, budget=other)


@pytest.mark.parametrize("kernel", [*KERNELS])
def test_networks_of_learned_spacings_cost_no_more_parameters(kernel):
    budget = Budget()
    plain, network = size(build("plain", PATCHES, budget)), build(kernel, PATCHES, budget)
    if kernel in ("plain", "dilated2", "dilated3"):
        assert size(network) == plain
    elif kernel == "dense17":
        assert size(network) == plain + 2 * (17**2 - 7**2) * sum(budget.dims)
    else:
        layer = next(module for module in network.modules() if isinstance(module, _Dcls))
        shared = 1 if KERNELS[kernel].network.get("share", True) else 2
        each = sum(budget.dims) * (2 + 2 * shared * (1 if layer.SIG is None else 2))
        assert plain - each < size(network) <= plain


def test_what_decays():
    splits = PATCHES
    for kernel, decay in (("bilinear", 0.0), ("decayed", 0.05)):
        network = build(kernel, splits, LITTLE)
        task = experiment._Watched(network, 8, ClassifyRecipe(), decayed=KERNELS[kernel].decayed)
        groups = task.parameter_groups()
        layer = next(module for module in network.modules() if isinstance(module, _Dcls))
        (of_positions,) = (group for group in groups if any(one is layer.P for one in group["params"]))
        assert of_positions["weight_decay"] == decay
        assert of_positions["lr"] == pytest.approx(5 * ClassifyRecipe().learning_rate)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mnist",), {}, r"data: got 'mnist', expected one of \('fashion-mnist', 'textures'\)"),
        (("textures",), {"seeds": 0}, r"seeds: got 0, expected at least 1"),
        (("textures",), {"kernels": ["square"]}, r"kernels: got 'square', expected some of plain, dilated2"),
        (("textures",), {"kernels": []}, r"kernels: got none, expected some of plain"),
    ],
)
def test_what_cannot_be(tmp_path, arguments, options, message):
    with pytest.raises(DataError, match=message):
        run_experiment(*arguments, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
