"""The example of settings is one, and trains all three stages."""

from pathlib import Path

from atrous.train import read_recipe
from atrous.train.run import stages

FILE = Path(__file__).parents[2] / "examples" / "camvid.toml"


def test_three_stages():
    recipe = read_recipe(None, FILE)
    assert recipe.task == "segment"
    assert [stage.name for stage in stages(recipe)] == ["front_end", "context", "joint"]
