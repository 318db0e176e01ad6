import json

import numpy as np
import pytest
from PIL import Image

from atrous import DataError
from atrous.train import Settings, predict_files, run_demo

NAMES = ["front_end", "with_context", "undilated", "default_init"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    settings = Settings(
        size=(96, 96),
        mosaic=(128, 160),
        lengths=(32, 4, 4),
        cached=8,
        front_end={"epochs": 3, "steps_per_epoch": 6, "patience": 2},
        context={"epochs": 2, "steps_per_epoch": 1},
    )
    return folder, run_demo(folder, 1, settings)


@pytest.mark.slow
def test_metrics(demo):
    folder, metrics = demo
    assert list(metrics) == [*NAMES, "seed", "seconds", "versions"]
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert metrics["seed"] == 1
    assert all(0 <= metrics[name] <= 1 for name in NAMES)


@pytest.mark.slow
def test_report(demo):
    folder, metrics = demo
    page = (folder / "report.html").read_text()
    for name in NAMES:
        assert f"{metrics[name]:.3f}" in page
    assert "One feature of the front end sees 58 pixels" in page
    assert "7 layers of 3 x 3 weights see 322 pixels" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/", "")
    with Image.open(folder / "overview.png") as overview:
        assert min(overview.size) > 300


@pytest.mark.slow
def test_the_weights_predict_the_mosaic(demo):
    folder, _ = demo
    for name in ("front_end", "with_context"):
        (path,) = predict_files([folder / "mosaic.png"], folder / f"{name}.safetensors", folder / name)
        with Image.open(path) as mask:
            labels = np.asarray(mask)
        assert labels.shape == (128, 160)
        assert labels.max() < 8


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_found_before_the_work(tmp_path, seed):
    with pytest.raises(DataError, match=rf"demo: seed: got {seed}, expected 0 to 4294967295"):
        run_demo(tmp_path / "out", seed)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be written"):
        run_demo(tmp_path / "file")
