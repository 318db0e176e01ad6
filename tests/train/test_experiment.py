import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from atrous import DataError
from atrous.nn.dcls import _Dcls
from atrous.train import experiment
from atrous.train.config import ClassifyRecipe
from atrous.train.data.patches import TexturePatches
from atrous.train.data.source import Splits
from atrous.train.experiment import run_experiment
from atrous.train.kernels import KERNELS, Budget, build

LITTLE = Budget(depths=(2, 1), dims=(4, 8), epochs=1, steps_per_epoch=2, recipe={"batch_size": 8}, lengths=(32, 8, 16))
PATCHES = Splits(*(TexturePatches(split, 8) for split in ("train", "val", "test")))


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


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "comparison.json").write_text("mine")
    with pytest.raises(DataError, match="holds something else than an experiment, expected an empty folder"):
        run_experiment("textures", tmp_path, budget=LITTLE)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "experiment.json").write_text('{"data": ')
    with pytest.raises(DataError, match=r"experiment.json: cannot be read as JSON \(.*\); choose another folder"):
        run_experiment("textures", tmp_path, budget=LITTLE)


def test_a_new_kernel_is_timed_beside_the_others(found, monkeypatch):
    folder, _ = found
    timed = []
    monkeypatch.setattr(experiment, "build", lambda name, *rest: timed.append(name) or build(name, *rest))
    times = experiment._times(folder, ["gaussian"], PATCHES, LITTLE)
    assert timed == [*times] == ["plain", "bilinear", "gaussian"]
    again = experiment._times(folder, ["plain"], PATCHES, LITTLE)
    assert again == times
    monkeypatch.setattr(experiment, "_processor", lambda: "another")
    assert [*experiment._times(folder, ["plain"], PATCHES, LITTLE)] == ["plain"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_the_one_that_made_them(tmp_path):
    code = (
        "from concurrent.futures import ProcessPoolExecutor; from multiprocessing import get_context; import os, time\n"
        "from atrous.train.experiment import _begin\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), _begin)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600); time.sleep(600)\n"
    )
    (tmp_path / "main.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "main.py"], stdout=subprocess.PIPE, text=True)
    worker = Path("/proc", process.stdout.readline().strip())
    assert worker.is_dir()
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while worker.is_dir() and "State:\tZ" not in (worker / "status").read_text() and time.monotonic() < until:
        time.sleep(0.1)
    assert not worker.is_dir() or "State:\tZ" in (worker / "status").read_text()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mnist",), {}, r"data: got 'mnist', expected one of \('fashion-mnist', 'textures'\)"),
        (("textures",), {"seeds": 0}, r"seeds: got 0, expected at least 1"),
        (("textures",), {"kernels": ["square"]}, r"kernels: got 'square', expected some of plain, dilated2"),
        (("textures",), {"kernels": []}, r"kernels: got none, expected some of plain"),
        (("textures",), {"kernels": ["plain", "plain"]}, r"kernels: got plain, plain, expected each of them once"),
        (("textures",), {"jobs": 0}, r"jobs: got 0, expected at least 1"),
    ],
)
def test_what_cannot_be(tmp_path, arguments, options, message):
    with pytest.raises(DataError, match=message):
        run_experiment(*arguments, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
