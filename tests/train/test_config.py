import json

import pytest

from atrous import DataError
from atrous.train import SegmentRecipe, read_recipe
from atrous.train.config import RECIPES


@pytest.mark.parametrize("task", RECIPES)
def test_defaults_survive_a_file(tmp_path, task):
    recipe = read_recipe(task)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"task": task, **recipe.model_dump()}))
    assert read_recipe(None, path) == recipe


def test_options_come_before_the_file_and_the_file_before_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('task = "segment"\nepochs = 3\nwidth = 0.5\n')
    recipe = read_recipe(None, path, epochs="7", crop=None)
    assert (recipe.epochs, recipe.width, recipe.crop) == (7, 0.5, None)
    assert read_recipe("segment", path).epochs == 3


def test_words_of_a_command_become_numbers():
    recipe = read_recipe("restore", crop="none", mirror="false", sigma="15", patience="2")
    assert (recipe.crop, recipe.mirror, recipe.sigma, recipe.patience) == (None, False, 15.0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "^epoch: no setting of segment; nearest: epochs$"),
        ({"lerning_rate": 3}, "^lerning_rate: no setting of segment; nearest: learning_rate$"),
        ({"xyz": 3}, "^xyz: no setting of segment; it has network, width, "),
        ({"epochs": "many"}, "^epochs: got 'many', expected a valid integer$"),
        ({"epochs": 2.5}, "^epochs: got 2.5, expected a valid integer$"),
        ({"batch_size": 0}, "^batch_size: got 0, expected greater than 0$"),
        ({"optimizer": "adm"}, "^optimizer: got 'adm', expected 'adam', 'adamw' or 'sgd'$"),
        ({"learning_rate": float("nan")}, "^learning_rate: got nan, expected"),
        ({"scale": 0.5}, "^scale: got 0.5, expected greater than or equal to 1$"),
        ({"sigma": 3}, "^sigma: no setting of segment"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(DataError, match=message):
        read_recipe("segment", **settings)


def test_kernels_of_a_command():
    recipe = read_recipe("classify", kernel="dcls", kernel_count="40", share="false", dilation="none")
    assert (recipe.kernel, recipe.kernel_count, recipe.share, recipe.dilation) == ("dcls", 40, False, None)
    with pytest.raises(DataError, match=r"^kernel: got '9x9', expected '7x7', 'dilated', 'dcls' or 'dense17'$"):
        read_recipe("classify", kernel="9x9")


def test_factors_of_a_command():
    assert read_recipe("restore", degradation="small", factor="4").factor == 4
    with pytest.raises(DataError, match=r"^factor: got 3, expected 2 or 4$"):
        read_recipe("restore", factor="3")


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.toml").write_text("epochs = ")
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.toml").write_text('task = "segment"\nepoch = 3')
    (tmp_path / "c.toml").write_text("epochs = 3")
    (tmp_path / "d.toml").write_text('task = ["segment"]')
    for name, task, message in (
        ("a.toml", "segment", r"a.toml: cannot be read as settings \(.*\); expected TOML"),
        ("a.json", "segment", r"a.json: got list, expected settings by name"),
        ("none.toml", "segment", r"none.toml: cannot be read as settings \(No such file"),
        ("b.toml", None, r"b.toml: epoch: no setting of segment; nearest: epochs"),
        ("b.toml", "restore", r"b.toml: task: got 'segment' beside --task restore"),
        ("d.toml", None, r"d.toml: task: got \['segment'\], expected one of segment"),
        ("c.toml", None, r"c.toml: task: got None, expected one of segment, restore, regress, classify"),
    ):
        with pytest.raises(DataError, match=message):
            read_recipe(task, tmp_path / name)


def test_a_recipe_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        SegmentRecipe().epochs = 3
