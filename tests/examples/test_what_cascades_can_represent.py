"""The fits of the example are as good as the closed form says, its kernels compose, and its picture is drawn."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "what_cascades_can_represent.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def weights():
    return [torch.randn(1, 1, 3, 3, dtype=torch.float64) for _ in range(3)]


def test_dilations_1_3_9_make_a_kronecker_product(script):
    torch.manual_seed(0)
    fine, middle, coarse = weights()
    expected = torch.kron(coarse[0, 0], torch.kron(middle[0, 0], fine[0, 0]))
    torch.testing.assert_close(script["composed"]([fine, middle, coarse], (1, 3, 9), 27), expected)


def test_dilations_1_2_4_make_none(script):
    torch.manual_seed(0)
    kernel = script["composed"](weights(), (1, 2, 4), 15)
    for outer, inner in ((5, 3), (3, 5)):
        (_, _, error), *_ = script["kronecker"](kernel, outer, inner)
        assert error > 0.1


def test_a_fit_finds_the_nearest_kronecker_product(script):
    torch.manual_seed(0)
    kernel = torch.randn(9, 9, dtype=torch.float64)
    (_, parameters, nearest), *_ = script["kronecker"](kernel, 3, 3)
    assert parameters == 18
    # The third layer reads outside of the field with all but its middle tap: it only scales.
    _, error = script["fit"](kernel, (1, 3, 9), 1, dense=False, starts=4, steps=200)
    assert error == pytest.approx(nearest, rel=1e-6)


@pytest.mark.parametrize("dilations", [(1, 2, 4), (1, 3, 9)])
def test_a_fit_finds_a_cascade_again(script, dilations):
    torch.manual_seed(0)
    kernel = script["composed"](weights(), dilations, 1 + 2 * sum(dilations))
    found, error = script["fit"](kernel, dilations, 1, dense=False, starts=4, steps=200)
    assert error < 1e-5
    assert sum(weight.numel() for weight in found) == 27


@pytest.mark.parametrize(("terms", "dense", "parameters"), [(4, False, 108), (4, True, 216)])
def test_parameters_are_counted(script, terms, dense, parameters):
    found, _ = script["fit"](torch.eye(15, dtype=torch.float64), (1, 2, 4), terms, dense=dense, starts=1, steps=1)
    assert sum(weight.numel() for weight in found) == parameters


def test_low_rank_of_rank_1_needs_54(script):
    gaussian = script["kernels"](27)["Gaussian"]
    (rank, parameters, error), *_ = script["low_rank"](gaussian)
    assert (rank, parameters) == (1, 54)
    assert error < 1e-7


@pytest.mark.parametrize(("dilations", "most"), [((1, 3), 1), ((1, 2), 4), ((1, 2, 4), 9)])
def test_the_footprint_counts_the_paths_that_are_drawn(script, dilations, most):
    along = torch.tensor([len(one) for one in script["paths"](dilations)])
    counts = script["path_counts"](dilations)
    assert torch.equal(counts, along[:, None] * along)
    assert counts.max() == most
    assert counts.sum() == 9 ** len(dilations)


@pytest.mark.slow
def test_the_script_prints_the_table_and_draws(tmp_path):
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--out", picture], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:4] == ["kernel", "size", "form", "terms"]
    assert {row.split()[0] for row in rows} == {"Gaussian", "Gabor", "disk", "texture", "noise"}
    assert picture.read_bytes().startswith(b"\x89PNG")
