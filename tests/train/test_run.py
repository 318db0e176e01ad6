import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from atrous import CheckpointError, DataError
from atrous.train import ClassifyRecipe, Hardware, SegmentRecipe, judge, load_network, predict_files, train
from atrous.train.run import stages

LITTLE = {"width": 1 / 16, "crop": 32, "batch_size": 2, "epochs": 1}
CPU = Hardware(accelerator="cpu")


@pytest.fixture
def trained(pairs, tmp_path):
    out = tmp_path / "out"
    recipe = SegmentRecipe(**{**LITTLE, "width": 1 / 8, "epochs": 12, "context": "none", "learning_rate": 0.01})
    return out, train(recipe, pairs, out, hardware=CPU), pairs


def test_a_folder_becomes_a_network_that_predicts(trained, tmp_path):
    """Better than the larger class everywhere."""
    out, metrics, pairs = trained
    assert {path.name for path in out.iterdir()} == {
        "data.json", "front_end", "metrics.json", "recipe.json", "test.png", "val.png", "weights.safetensors",
    }  # fmt: skip
    assert metrics == json.loads((out / "metrics.json").read_text())
    truth = torch.tensor(metrics["test"]["confusion"]).sum(1)
    assert metrics["test"]["mean_iou"] > truth.max() / truth.sum() / 2 + 0.2
    assert judge(pairs, out / "weights.safetensors") == metrics["test"]
    assert judge(pairs, out / "weights.safetensors", split="val") == metrics["val"]
    masks = predict_files([pairs / "test" / "images"], out / "weights.safetensors", tmp_path / "masks")
    with Image.open(masks[0]) as mask:
        assert (mask.mode, mask.size, mask.getpalette()[:6]) == ("P", (48, 40), [10, 20, 30, 200, 0, 0])


def test_weights_are_judged_on_what_they_know(trained, tmp_path):
    out, _, pairs = trained
    weights = out / "weights.safetensors"
    (pairs / "classes.json").write_text('["a", "b", "c"]')
    with pytest.raises(DataError, match=r"has the classes a, b, c, expected those of .*: left, right"):
        judge(pairs, weights)
    with pytest.raises(CheckpointError, match="no such weights file"):
        judge(pairs, tmp_path / "none.safetensors")
    (pairs / "classes.json").write_text('["left", "right"]')
    for path in pairs.glob("*/images/*"):
        Image.open(path).convert("L").save(path)
    with pytest.raises(DataError, match=r"has 1 channels, expected 3 as"):
        judge(pairs, weights)


def test_a_folder_with_another_run_is_left_alone(trained):
    out, _, pairs = trained
    before = (out / "weights.safetensors").read_bytes()
    with pytest.raises(DataError, match="out: holds another run; resume it, or choose another folder"):
        train(SegmentRecipe(**LITTLE), pairs, out, hardware=CPU)
    with pytest.raises(DataError, match=r"width: got 0.0625, but the run in .*out has 0.125; expected the same"):
        train(SegmentRecipe(**LITTLE), pairs, out, hardware=CPU, resume=True)
    assert (out / "weights.safetensors").read_bytes() == before


def test_a_run_that_never_began_leaves_its_folder_free(pairs, tmp_path):
    out = tmp_path / "out"
    mask = (pairs / "train" / "masks" / "001.png").rename(tmp_path / "mask.png")
    with pytest.raises(DataError, match="has no file of the same name"):
        train(SegmentRecipe(**LITTLE), pairs, out, hardware=CPU)
    with pytest.raises(DataError, match="out: holds no run to resume"):
        train(SegmentRecipe(**LITTLE), pairs, out, hardware=CPU, resume=True)
    mask.rename(pairs / "train" / "masks" / "001.png")
    assert train(SegmentRecipe(**LITTLE), pairs, out, hardware=CPU)["val"]


def test_other_data_are_not_resumed(trained):
    out, _, pairs = trained
    before = (out / "metrics.json").read_bytes()
    for part in ("images", "masks"):
        (pairs / "test" / part / "000.png").rename(pairs / "test" / part / "other.png")
    recipe = SegmentRecipe(**{**LITTLE, "width": 1 / 8, "epochs": 12, "context": "none", "learning_rate": 0.01})
    with pytest.raises(DataError, match=r"data: got 12 images, but the run in .*out has 12 others"):
        train(recipe, pairs, out, hardware=CPU, resume=True)
    assert (out / "metrics.json").read_bytes() == before


def test_killed_between_the_last_checkpoint_and_the_weights(trained):
    out, metrics, pairs = trained
    before = (out / "weights.safetensors").read_bytes()
    for path in (out / "weights.safetensors", out / "front_end" / "weights.safetensors"):
        path.unlink()
    recipe = SegmentRecipe(**{**LITTLE, "width": 1 / 8, "epochs": 12, "context": "none", "learning_rate": 0.01})
    assert train(recipe, pairs, out, hardware=CPU, resume=True) == metrics
    assert (out / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("options", [{"devices": 0}, {"devices": "foo"}, {"strategy": "foo"}, {"accelerator": "foo"}])
def test_hardware_that_cannot_be(pairs, tmp_path, options):
    with pytest.raises(
        DataError, match=r"hardware: got Hardware\(.*\), which cannot run here \(.*\); see `atrous info`"
    ):
        train(SegmentRecipe(**LITTLE), pairs, tmp_path / "out", hardware=Hardware(**{"accelerator": "cpu", **options}))


def test_no_label_that_counts(pairs, tmp_path):
    for path in (pairs / "val" / "masks").iterdir():
        Image.new("L", (48, 40), 255).save(path)
    with pytest.raises(DataError, match="val: mean_iou is no number; expected some target that counts"):
        train(SegmentRecipe(**LITTLE), pairs, tmp_path / "out", hardware=CPU)


def test_a_worker_says_one_sentence(pairs, tmp_path):
    Image.new("RGB", (30, 20)).save(pairs / "train" / "images" / "001.png")
    Image.new("L", (30, 20)).save(pairs / "train" / "masks" / "001.png")
    recipe = SegmentRecipe(width=1 / 16, epochs=1, workers=1)
    with pytest.raises(DataError, match=r"^crop: got none, and images of .* pixels, which make no batch; set a crop$"):
        train(recipe, pairs, tmp_path / "out", hardware=CPU)


def test_weights_to_start_from(trained, tmp_path):
    out, _, pairs = trained
    recipe = SegmentRecipe(**{**LITTLE, "width": 1 / 8, "epochs": 0, "init": str(out / "weights.safetensors")})
    again = train(recipe, pairs, tmp_path / "again", hardware=CPU)
    assert list(again) == ["val", "test"]
    first, second = (load_network(one / "weights.safetensors")[0] for one in (out, tmp_path / "again"))
    assert torch.equal(first.front_end.conv1_1.weight, second.front_end.conv1_1.weight)
    narrow = SegmentRecipe(**{**LITTLE, "init": str(out / "weights.safetensors")})
    with pytest.raises(CheckpointError, match=r"does not fit the network: front_end.conv1_1.weight has shape \(8, 3"):
        train(narrow, pairs, tmp_path / "narrow", hardware=CPU)


def test_learned_positions_are_trained_kept_and_read_again(tmp_path):
    """Shared positions stand in the file once, and inside of their windows."""
    random = np.random.default_rng(0)
    for split, label in itertools.product(("train", "val", "test"), ("dark", "light")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        for number in range(4):
            image = random.integers(0, 128, (32, 32), np.uint8) + np.uint8(128 * (label == "light"))
            Image.fromarray(image).save(tmp_path / "data" / split / label / f"{number}.png")
    settings = {"kernel": "dcls", "kernel_count": 4, "dilated_kernel_size": 7, "position_lr_scale": 50.0}
    recipe = ClassifyRecipe(width=1 / 16, epochs=2, batch_size=4, learning_rate=0.02, drop_path=0.0, **settings)
    metrics = train(recipe, tmp_path / "data", tmp_path / "out", hardware=CPU)
    weights = tmp_path / "out" / "weights.safetensors"
    network, config = load_network(weights)
    kernel = {"kernel": "dcls", "kernel_count": 4, "dilated_kernel_size": 7}
    assert kernel.items() <= config.arguments.items()
    state = safetensors.torch.load_file(weights)
    assert [name for name in state if name.endswith(".P")] == [f"stages.{n}.blocks.0.conv_dw.P" for n in range(4)]
    for stage in network.stages:
        assert len({block.conv_dw.P for block in stage.blocks}) == 1
        assert stage.blocks[0].conv_dw.P.abs().max() <= 3
    assert judge(tmp_path / "data", weights) == metrics["test"]


def test_stages():
    names = [[stage.name for stage in stages(SegmentRecipe(**options))] for options in (
        {"context": "none"}, {}, {"context_epochs": 2}, {"context_epochs": 2, "joint_epochs": 3},
    )]  # fmt: skip
    assert names == [["front_end"], ["whole"], ["front_end", "context"], ["front_end", "context", "joint"]]


def test_the_front_end_does_not_change_behind_its_context(pairs, tmp_path):
    recipe = SegmentRecipe(**LITTLE, context="large", context_epochs=1, joint_epochs=1)
    train(recipe, pairs, tmp_path / "out", hardware=CPU)
    first, second, third = (
        load_network(tmp_path / "out" / name / "weights.safetensors")[0] for name in ("front_end", "context", "joint")
    )
    for name in ("front_end.conv1_1.weight", "front_end.final.bias"):
        assert torch.equal(first.get_parameter(name), second.get_parameter(name))
        assert not torch.equal(second.get_parameter(name), third.get_parameter(name))
    contexts = [next(one.context.parameters()) for one in (first, second)]
    assert not torch.equal(*contexts)


RUN = """
import os, signal, sys
from atrous.train import Hardware, SegmentRecipe, train
from atrous.train.tasks.task import Task
data, out, kill = sys.argv[1], sys.argv[2], int(sys.argv[3])
step, count = Task.training_step, [0]
def counted(self, *batch):
    count[0] += 1
    if count[0] == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)
Task.training_step = counted
recipe = SegmentRecipe(width=1 / 16, crop=32, batch_size=2, scale=1.3, colour=0.2, epochs=3, context_epochs=2)
train(recipe, data, out, hardware=Hardware(accelerator="cpu"), resume=os.path.isdir(out))
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_ends_in_the_same_bits(pairs, tmp_path):
    def run(out, kill):
        command = [sys.executable, "-W", "ignore", "-c", RUN, str(pairs), str(tmp_path / out), str(kill)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("whole", 0).returncode == 0
    # In the first epoch, at its end, in the third, and in the context module's.
    assert [run("parts", kill).returncode for kill in (2, 4, 5, 5)] == [-9] * 4
    done = run("parts", 0)
    assert done.returncode == 0, done.stderr
    weights = [(tmp_path / out / "weights.safetensors").read_bytes() for out in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(pairs, tmp_path):
    """At the same global batch, the curves of the loss agree; labels that do not count are not evenly shared."""
    settings = {"width": 1 / 16, "crop": 32, "batch-size": 2, "scale": 1.3, "epochs": 5, "context": "none"}
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    curves = []
    for name, more in (("one", []), ("two", ["--devices", "2", "--strategy", "ddp"])):
        words = ["--data", str(pairs), "--out", str(tmp_path / name), "--accelerator", "cpu", *options, *more]
        done = subprocess.run(
            [sys.executable, "-m", "atrous", "train", "--task", "segment", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test: mean_iou") == 1
        rows = (tmp_path / name / "front_end" / "metrics.csv").read_text().splitlines()
        curves.append([float(value) for row in rows[1:] for value in row.split(",")[2:] if value])
    assert len(curves[0]) == 8  # three steps an epoch, every fifth logged, and five validations
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
