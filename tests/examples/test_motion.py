"""Clips move as their labels say, networks have equally many parameters, and the script prints, draws and saves."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.registration import phase_cross_correlation

SCRIPT = Path(__file__).parents[2] / "examples" / "motion.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("label", range(24))
def test_phase_correlation_finds_the_velocity_of_the_label(script, label):
    clip = script["clip"](np.random.default_rng(label), script["photographs"]("train")[3], label).numpy()
    later = {0.25: 15, 0.5: 12, 1.0: 6}[script["SPEEDS"][label % 3]]
    bell = np.hanning(script["SIZE"])
    first, last = (clip[..., frame] * bell[:, None] * bell for frame in (0, later))
    found, *_ = phase_cross_correlation(first, last, upsample_factor=20)
    # Frames that overlap in part give it within half a pixel; other classes are 2.8 pixels away or more.
    assert found == pytest.approx([speed * later for speed in script["velocity"](label)], abs=0.5)


def test_classes_are_8_directions_at_3_speeds(script):
    velocities = [script["velocity"](label) for label in range(24)]
    assert len({(round(down, 6), round(right, 6)) for down, right in velocities}) == 24
    assert {round(float(np.hypot(*one)), 6) for one in velocities} == set(script["SPEEDS"])
    assert velocities[2] == (0, 1)
    assert velocities[3 * 2 + 2] == pytest.approx((1, 0))


@pytest.mark.parametrize(("top", "left"), [(3, 5), (3.25, 5), (3, 5.5), (3.75, 5.125)])
def test_a_crop_of_a_plane_is_exact_at_real_places(script, top, left):
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    size = script["SIZE"]
    expected = 2 * (rows[:size, :size] + top) - (columns[:size, :size] + left)
    torch.testing.assert_close(script["crop"](2 * rows - columns, top, left), expected)


@pytest.mark.parametrize("label", range(24))
def test_a_clip_stays_inside_the_smallest_photograph_that_holds_it(script, label):
    way = script["FRAMES"] - 1
    sides = [int(np.ceil(abs(speed) * way)) + script["SIZE"] + 1 for speed in script["velocity"](label)]
    photograph = torch.rand(sides, generator=torch.Generator().manual_seed(0))
    clip = script["clip"](np.random.default_rng(label), photograph, label)
    assert clip.shape == (script["SIZE"], script["SIZE"], script["FRAMES"])
    assert clip.mean().item() == pytest.approx(0, abs=1e-5)
    assert clip.std().item() == pytest.approx(1, abs=1e-5)


def test_training_and_test_see_different_halves(script):
    for name, left, right in zip(script["PHOTOGRAPHS"], *map(script["photographs"], ("train", "test")), strict=True):
        whole = np.asarray(getattr(script["skimage"].data, name)(), np.float32)
        np.testing.assert_array_equal(np.concatenate([left, right], axis=1), whole)


def test_a_batch_is_a_function_of_its_arguments(script):
    clips, labels = script["batch"]("train", 0, 3)
    again, same = script["batch"]("train", 0, 3)
    assert torch.equal(clips, again)
    assert torch.equal(labels, same)
    for other in (("train", 1, 3), ("train", 0, 4), ("test", 0, 3)):
        assert not torch.equal(script["batch"](*other)[0], clips)


def test_all_networks_have_the_same_number_of_parameters(script):
    counts = [sum(one.numel() for one in script["network"](variant).parameters()) for variant in script["VARIANTS"]]
    assert counts == [8950] * 5


def test_elements_lie_in_time_along_the_last_axis(script):
    time_alone, everywhere = (script["depthwise"](variant, 4, 0) for variant in ("Dcls3_1d", "Dcls3d"))
    assert time_alone.kernel().shape == (4, 1, 3, 3, 9)
    assert everywhere.kernel().shape == (4, 1, 5, 5, 9)
    assert script["depthwise"]("dilated", 4, 2).dilation == (1, 1, 4)


def test_elements_start_near_the_centre_or_all_over_the_window(script):
    torch.manual_seed(0)
    centred, spread = (script["depthwise"](variant, 64, 0).P[-1] for variant in ("Dcls3d", "Dcls3d, spread"))
    assert centred.std().item() == pytest.approx(0.5, abs=0.05)
    # A uniform distribution over -4 to 4 has the deviation 8 / sqrt(12).
    assert spread.std().item() == pytest.approx(8 / 12**0.5, abs=0.15)


@pytest.mark.parametrize("variant", ["3 x 3 x 3", "dilated", "Dcls3_1d", "Dcls3d", "Dcls3d, spread"])
def test_frames_meet_in_the_blocks_alone(script, variant):
    torch.manual_seed(0)
    net = script["network"](variant, 4).eval()
    clip = torch.randn(1, 1, 8, 8, 16)
    mixed = clip[..., torch.randperm(16)]
    blocks = [module for module in net if type(module).__name__ == "Block"]
    assert len(blocks) == 4
    assert not torch.allclose(net(clip), net(mixed))
    flat = torch.nn.Sequential(*(module for module in net if module not in blocks))
    torch.testing.assert_close(flat(clip), flat(mixed))


def test_scores_are_counted_by_speed(script):
    labels = torch.arange(24)
    clips = torch.zeros(24, 24)
    clips[labels, labels] = 1
    clips[2::3] = clips[0].clone()  # all of the fastest are taken for class 0
    accuracy, by_speed = script["evaluate"](torch.nn.Identity(), clips, labels)
    assert accuracy == pytest.approx(2 / 3)
    assert by_speed == (1, 1, 0)


def test_the_table_has_means_and_spreads(script):
    runs = tuple(
        script["Run"]("dilated", seed, 10, accuracy, (0.1, 0.2, 0.3), 0.5, ())
        for seed, accuracy in enumerate((0.4, 0.6))
    )
    head, row = str(script["Outcomes"](7, runs)).splitlines()
    assert head.split()[:4] == ["layer", "parameters", "accuracy", "+-"]
    assert row.split() == ["dilated", "10", "0.500", "0.141", "0.100", "0.200", "0.300", "0.500"]


@pytest.mark.slow
def test_the_script_prints_the_table_and_saves_it(tmp_path, script):
    arguments = "--seeds", "1", "--steps", "2", "--tests", "24", "--out", tmp_path / "motion"
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.startswith("layer")
    assert len(rows) == len(script["VARIANTS"])
    assert all(row.startswith(f"{variant}  ") for row, variant in zip(rows, script["VARIANTS"], strict=True))
    saved = json.loads((tmp_path / "motion.json").read_text())
    assert saved["steps"] == 2
    assert [run["variant"] for run in saved["runs"]] == list(script["VARIANTS"])
    assert all(-4 <= frame <= 4 for run in saved["runs"] for frame in run["frames"])
    # 12 * 9 // 4 channels; 2, 1, 2, 1 elements in each of 3 x 3 places, 7, 7, 7, 6 in all.
    assert [len(run["frames"]) for run in saved["runs"]] == [0, 0, 27 * 9 * 6, 27 * 27, 27 * 27]
    assert (tmp_path / "motion.png").read_bytes().startswith(b"\x89PNG")
