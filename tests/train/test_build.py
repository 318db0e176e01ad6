import pytest

from atrous import CheckpointError, DataError
from atrous.nn import Dcls2d
from atrous.train import ClassifyRecipe, SegmentRecipe, Textures, describe, make_task, open_data, read_recipe
from atrous.train.config import KERNEL, RECIPES

OWN = ("kernel", "share")
"""Settings that are the network's and no layer's."""


def test_textures():
    splits = open_data("textures", "segment")
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [512, 32, 64]
    splits = open_data("textures", "classify")
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [40000, 2000, 8000]
    with pytest.raises(DataError, match=r"got textures for restore, expected a folder; .* is for segment and classify"):
        open_data("textures", "restore")
    with pytest.raises(DataError, match="fashion-mnist is for classify"):
        open_data("fashion-mnist", "segment")


def test_a_folder_named_as_textures_is_a_folder(pairs, monkeypatch):
    monkeypatch.chdir(pairs.parent)
    pairs.rename(pairs.parent / "textures")
    assert open_data("textures", "segment").train.classes == ("left", "right")


@pytest.mark.parametrize("task", RECIPES)
def test_every_task_has_a_network(task, signs):
    source = signs()[1].splits.train
    recipe = read_recipe(task, width=0.25)
    config = describe(recipe, source)
    assert config.task == task
    found = make_task(config.build(), config, recipe, 3, 0.5)
    assert (found.epochs, found.learning_rate, found.recipe) == (3, 0.5, recipe)


@pytest.mark.parametrize(("side", "patch"), [(64, 4), (32, 4), (28, 2), (12, 1)])
def test_small_images_have_small_patches(side, patch):
    source = Textures("val", 1, (side, side))
    config = describe(ClassifyRecipe(), source)
    assert config.arguments["patch"] == patch
    assert describe(ClassifyRecipe(patch=2, crop=64), source).arguments["patch"] == 2


def test_a_context_module_is_what_the_recipe_says(signs):
    source = signs()[1].splits.train
    control = describe(SegmentRecipe(dilated=False, context="large"), source).build()
    assert {layer.dilation for layer in control.context if hasattr(layer, "dilation")} == {(1, 1)}
    assert describe(SegmentRecipe(context="none"), source).build().context.__class__.__name__ == "Identity"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"kernel": "dilated", "dilation": 3}, {"kernel": "dilated", "dilation": 3}),
        (
            {
                "kernel": "dcls",
                "kernel_count": 5,
                "dilated_kernel_size": 9,
                "interpolation": "gaussian",
                "share": False,
            },
            {
                "kernel": "dcls",
                "kernel_count": 5,
                "dilated_kernel_size": 9,
                "interpolation": "gaussian",
                "share": False,
            },
        ),
    ],
)
def test_the_network_has_the_kernel_of_the_recipe(settings, expected):
    config = describe(ClassifyRecipe(width=1 / 16, **settings), Textures("val", 1))
    found = {name: value for name, value in config.arguments.items() if name in KERNEL}
    assert found == expected
    layer = config.build().stages[0].blocks[0].conv_dw
    assert all(getattr(layer, name) in (value, (value, value)) for name, value in expected.items() if name not in OWN)
    assert isinstance(layer, Dcls2d) == (settings.get("kernel") == "dcls")


def test_an_option_of_another_kernel_is_named():
    config = describe(ClassifyRecipe(dilation=2), Textures("val", 1))
    with pytest.raises(CheckpointError, match=r"ConvNeXt: dilation: got 2, expected only options of kernel='7x7'"):
        config.build()
