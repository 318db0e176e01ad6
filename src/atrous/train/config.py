"""What a training run is told: one class of settings for each task, read from a TOML or JSON file and from options."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atrous._errors import DataError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

KERNEL = ("kernel", "dilation", "kernel_count", "dilated_kernel_size", "interpolation", "share")
"""Settings of `classify` that the network has by the same names."""


class Recipe(BaseModel):
    """What every task is told.

    Example:
        >>> SegmentRecipe(epochs=3).epochs
        3
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    task: ClassVar[str]

    network: str = Field(description="name of the network")
    width: float = Field(1.0, gt=0, description="factor on the network's channels")
    init: str | None = Field(None, description="weights to start from: of atrous, torchvision or the papers")
    epochs: int = Field(20, ge=0, description="passes over the training images; 0 leaves out what init has learned")
    batch_size: Positive = Field(8, description="images in a step, over all devices together")
    crop: Positive | None = Field(None, description="side of the training crops in pixels; none takes whole images")
    mirror: bool = Field(True, description="mirror training images left to right, by chance")
    scale: Annotated[float, Field(ge=1)] = Field(1.0, description="resize training images by 1/S to S, by chance")
    colour: Share = Field(0.0, description="change brightness, contrast and saturation by up to this share, by chance")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="what learns; sgd has momentum")
    learning_rate: float = Field(3e-3, gt=0, description="at its highest")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, description="not of biases and norms")
    schedule: Literal["constant", "cosine", "poly", "plateau"] = Field(
        "cosine", description="of the learning rate; poly has the power 0.9, plateau cuts to a third after two epochs"
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs in which the learning rate rises from 0")
    patience: Positive | None = Field(None, description="epochs without a better validation that end the run early")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, order and augmentation")
    workers: int = Field(0, ge=0, description="processes that read images")
    skip_bad: bool = Field(False, description="leave out broken images, and list them")

    @field_validator("crop", "patience", "patch", *KERNEL, mode="before", check_fields=False)
    @classmethod
    def _none(cls, value: Any) -> Any:
        """Return None for the word, which is how a command says it."""
        return None if value == "none" else value


class SegmentRecipe(Recipe):
    """Settings of `segment`: class scores of every pixel, by a front end and, behind it, a context module.

    With `context_epochs`, the context module is trained on the frozen front end after it, and with `joint_epochs` both
    are trained together after that, as in the paper.

    Source: Yu and Koltun 2016, section 4 and appendix.

    Example:
        >>> SegmentRecipe(context="large", context_epochs=5).context_learning_rate
        0.003
    """

    task: ClassVar[str] = "segment"
    network: Literal["dilation_small", "dilation7", "dilation8", "dilation10"] = Field(
        "dilation_small", description="name of the network"
    )
    width: float = Field(0.25, gt=0, description="factor on the network's channels")
    context: Literal["none", "basic", "large"] = Field("basic", description="context module behind the front end")
    dilated: bool = Field(True, description="false is the control: all dilations of the context module are 1")
    context_epochs: int = Field(0, ge=0, description="of the context module alone; 0 trains all at once")
    context_learning_rate: float = Field(3e-3, gt=0, description="of the context module alone")
    joint_epochs: int = Field(0, ge=0, description="of both together, after that")
    joint_learning_rate: float = Field(3e-4, gt=0, description="of both together")


class RestoreRecipe(Recipe):
    """Settings of `restore`: a clean image from a noisy, small or mosaicked one; targets are the images themselves.

    Example:
        >>> RestoreRecipe(degradation="noise", sigma=15).sigma
        15.0
    """

    task: ClassVar[str] = "restore"
    network: Literal["ircnn"] = Field("ircnn", description="name of the network")
    crop: Positive | None = Field(96, description="side of the training crops in pixels; none takes whole images")
    degradation: Literal["noise", "small", "mosaic"] = Field("noise", description="what is undone")
    sigma: float = Field(25.0, ge=0, description="standard deviation of the noise, of 255")
    factor: Literal[2, 4] = Field(2, description="of super-resolution")

    @field_validator("factor", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Return the number of a word."""
        return int(value) if isinstance(value, str) and value.isdigit() else value

    learning_rate: float = Field(1e-3, gt=0, description="at its highest")


class RegressRecipe(Recipe):
    """Settings of `regress`: one or more numbers of every pixel, such as depth, saliency or heat maps of key points.

    Example:
        >>> RegressRecipe(loss="l1").loss
        'l1'
    """

    task: ClassVar[str] = "regress"
    network: Literal["dense_map"] = Field("dense_map", description="name of the network")
    width: float = Field(0.25, gt=0, description="factor on the network's channels")
    loss: Literal["l1", "l2", "binary"] = Field("l2", description="binary is the cross-entropy, of maps from 0 to 1")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")


class ClassifyRecipe(Recipe):
    """Settings of `classify`: one class for an image, by the recipe of ConvNeXt.

    Source: Liu et al., A ConvNet for the 2020s, 2022, appendix.

    Example:
        >>> ClassifyRecipe(mixup=0.8).mixup
        0.8
    """

    task: ClassVar[str] = "classify"
    network: Literal["convnext_pico", "convnext_tiny", "convnext_small", "convnext_base"] = Field(
        "convnext_pico", description="name of the network"
    )
    patch: Positive | None = Field(
        None,
        description="pixels of an image that make one of the first map, per axis; none is 4, less for small images",
    )
    kernel: Literal["7x7", "dilated", "dcls", "dense17"] | None = Field(
        None, description="of the depthwise convolutions: 7x7, dilated, dcls or dense17; none is 7x7"
    )
    dilation: Positive | None = Field(None, description="of the kernel dilated; none is 2")
    kernel_count: Positive | None = Field(None, description="elements of the kernel dcls; none is 34")
    dilated_kernel_size: Positive | None = Field(None, description="pixels of the window of dcls; none is 17")
    interpolation: Literal["bilinear", "triangle", "gaussian", "bicubic"] | None = Field(
        None, description="of dcls: bilinear, triangle, gaussian or bicubic; none is bilinear"
    )
    share: bool | None = Field(None, description="one set of positions for each stage of dcls; none is true")
    position_lr_scale: float = Field(5.0, ge=0, description="learning rate of positions over that of weights")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="what learns; sgd has momentum")
    learning_rate: float = Field(2e-3, gt=0, description="at its highest")
    weight_decay: float = Field(0.05, ge=0, description="not of biases and norms")
    warmup_epochs: int = Field(1, ge=0, description="epochs in which the learning rate rises from 0")
    batch_size: Positive = Field(64, description="images in a step, over all devices together")
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of the residual branches left out in the last block"
    )
    mixup: float = Field(0.0, ge=0, description="alpha of the mixture of two images; 0 is none")
    cutmix: float = Field(0.0, ge=0, description="alpha of the rectangle from another image; 0 is none")
    label_smoothing: Share = Field(0.1, description="share of a label spread over all classes")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay per step of averaged weights; 0 is none")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="learning rate of a layer over the next")


RECIPES: dict[str, type[Recipe]] = {
    recipe.task: recipe for recipe in (SegmentRecipe, RestoreRecipe, RegressRecipe, ClassifyRecipe)
}
"""Task -> the class of its settings."""


def read_recipe(task: str | None = None, file: str | Path | None = None, **options: Any) -> Recipe:
    """Return the settings of a run: those of a file, those given by name before them, and defaults.

    Args:
        task: 'segment', 'restore', 'regress' or 'classify'; None if the file has it, as `task`.
        file: TOML or JSON; None for none.
        options: settings; None is none.

    Raises:
        DataError: a file that cannot be read, an unknown task or setting (names the nearest), or a value of another
            type or out of range.

    Example:
        >>> read_recipe("restore", epochs=2, sigma=15.0).epochs
        2
        >>> read_recipe("segment", epoch=2)
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: epoch: no setting of segment; nearest: epochs
    """
    found = {} if file is None else _read(Path(file))
    where = "" if file is None else f"{file}: "
    named = found.pop("task", None)
    if task is not None and named not in (None, task):
        raise DataError(f"{where}task: got {named!r} beside --task {task}, expected one of them, or both alike")
    task = named if task is None else task
    if task not in tuple(RECIPES):
        raise DataError(f"{where}task: got {task!r}, expected one of {', '.join(RECIPES)}")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return RECIPES[task](**{**found, **given})
    except ValidationError as error:
        raise DataError(where + _sentence(task, error.errors()[0])) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read as settings ({reason}); expected TOML, or JSON in a .json") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: got {type(content).__name__}, expected settings by name")
    return content


def _sentence(task: str, fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, RECIPES[task].model_fields, 1, 0.5)
        known = f"nearest: {near[0]}" if near else f"it has {', '.join(RECIPES[task].model_fields)}"
        return f"{name}: no setting of {task}; {known}"
    wanted = fault["msg"].removeprefix("Input should be ").partition(", unable")[0].partition(", got")[0]
    return f"{name}: got {fault['input']!r}, expected {wanted}"
