"""Folders of images: pairs with masks or maps, images alone, and one folder for each class.

    root/{train,val,test}/images/NAME.jpg  masks/NAME.png      segment, with root/classes.json
    root/{train,val,test}/images/NAME.jpg  targets/NAME.tif    regress
    root/{train,val,test}/images/NAME.jpg                      restore
    root/{train,val,test}/CLASS/NAME.jpg                       classify

Legend: A channels, M channels of a map, H, W image size.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atrous._errors import DataError
from atrous.plots.masks import IGNORE
from atrous.train.data.images import count_channels, read_array, read_image, standardise
from atrous.train.data.source import Item, Source, Splits

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of image files, in small letters; others are not looked at."""
SSIM_WINDOW = 11
"""Sides that SSIM needs, in pixels."""
SPLITS = ("train", "val", "test")


def open_folder(root: str | Path, task: str) -> Splits:
    """Return the sources of a folder laid out for a task, its file names checked.

    Args:
        root: the folder; nothing outside of it is read, whatever links say.
        task: 'segment', 'restore', 'regress' or 'classify'.

    Raises:
        DataError: a folder or file that is missing, an image without its target, an empty split, a class table that
            cannot be read, or a link that leads out of the root.

    Example:
        >>> open_folder("absent", "segment")
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: absent: no such folder of images
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of images")
    make = {"segment": _segment, "restore": _restore, "regress": _regress, "classify": _classify}[task]
    found = {split: make(root, split) for split in SPLITS if split != "test" or (root / split).is_dir()}
    for split, source in found.items():
        if source.channels != found["train"].channels:
            raise DataError(
                f"{root / split}: the first image has {source.channels} channels, expected "
                f"{found['train'].channels} as in train"
            )
    return Splits(found["train"], found["val"], found.get("test"))


class Pairs(Source):
    """Serve images with their masks or maps.

    Args:
        images: files, upright and of any units; each is standardised, see `standardise`.
        targets: a file for each.
        channels: A.
        classes: names of the classes of masks; empty for maps.
        colours: of the classes.
        maps: M.

    Shape:
        Items are (A, H, W), and (H, W) int64 labels, 255 to ignore, or (M, H, W) float32.

    Raises:
        DataError: a file that cannot be used: unreadable, of another size than its image, or with a label that is no
            class; names it.

    Example:
        >>> pairs = Pairs([Path("a.jpg")], [Path("a.png")], 3, ("road", "sky"))
        >>> len(pairs), pairs.name(0)
        (1, 'a.jpg')
    """

    def __init__(
        self,
        images: list[Path],
        targets: list[Path],
        channels: int,
        classes: tuple[str, ...] = (),
        colours: tuple[tuple[int, int, int], ...] = (),
        maps: int = 1,
    ) -> None:
        self.images, self.targets, self.maps = images, targets, maps
        self.channels, self.classes, self.colours = channels, classes, colours

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Return one pair."""
        image = standardise(read_image(self.images[index], self.channels))
        if min(image.shape[1:]) < 2:
            raise DataError(f"{self.images[index]}: got {_size(image)} pixels, expected sides of at least 2")
        path = self.targets[index]
        target = self._mask(path) if self.classes else _map(path)
        if not self.classes and len(target) != self.maps:
            raise DataError(f"{path}: got {len(target)} channels, expected {self.maps} as in the first target")
        if target.shape[-2:] != image.shape[-2:]:
            raise DataError(
                f"{path}: got {_size(target)} pixels beside {_size(image)} of {self.images[index]}, expected the same"
            )
        return image, target

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.images[index])

    def _mask(self, path: Path) -> torch.Tensor:
        labels = read_array(path)
        if labels.ndim != 2 or labels.dtype.kind not in "ui":
            raise DataError(f"{path}: got a mask in colours, expected one number of a class for every pixel")
        wrong = labels[(labels >= len(self.classes)) & (labels != IGNORE)]
        if wrong.size:
            raise DataError(
                f"{path}: got class {wrong.flat[0]}, expected 0 to {len(self.classes) - 1}, or {IGNORE} to ignore"
            )
        return torch.from_numpy(labels.astype(np.int64))


class Pictures(Source):
    """Serve images alone, each as its own target, between 0 and 1.

    Args:
        images: files; those of floating point are between 0 and 1 already.
        channels: A.
        least: sides that they have to have, in pixels.

    Shape:
        Items are (A, H, W) float32 twice.

    Raises:
        DataError: an image that cannot be read, or is too small; names it.

    Example:
        >>> Pictures([Path("a.jpg")], 3).name(0)
        'a.jpg'
    """

    def __init__(self, images: list[Path], channels: int, least: int = 1) -> None:
        self.images, self.channels, self.least = images, channels, least

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Return one image, twice."""
        image = read_image(self.images[index], self.channels, unit=True)
        if min(image.shape[1:]) < self.least:
            raise DataError(
                f"{self.images[index]}: got {_size(image)} pixels, expected sides of at least {self.least}, the window "
                "of SSIM"
            )
        return image, image

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.images[index])


class Labelled(Source):
    """Serve images with the number of their class.

    Args:
        images: files; each is standardised.
        labels: a class for each.
        channels: A.
        classes: their names.

    Shape:
        Items are (A, H, W) float32 and () int64.

    Raises:
        DataError: an image that cannot be read.

    Example:
        >>> Labelled([Path("cat/a.jpg")], [0], 3, ("cat", "dog")).classes[1]
        'dog'
    """

    def __init__(self, images: list[Path], labels: list[int], channels: int, classes: tuple[str, ...]) -> None:
        self.images, self.labels = images, labels
        self.channels, self.classes = channels, classes

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Return one image and its class."""
        image = standardise(read_image(self.images[index], self.channels))
        return image, torch.tensor(self.labels[index])

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.images[index])


def image_files(folder: Path, root: Path) -> list[Path]:
    """Return the image files of a folder, by name.

    Raises:
        DataError: no such folder, none in it, or a link that leads out of `root`.

    Example:
        >>> image_files(Path("absent"), Path("."))
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: absent: no such folder
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{folder}: got no image, expected files that end in {', '.join(SUFFIXES)}")
    for path in (folder, *found):
        _check_inside(path, root)
    return found


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: is a link that leads out of {root}; copy what it leads to")


def _segment(root: Path, split: str) -> Source:
    _check_inside(root / "classes.json", root)
    classes, colours = _classes(root / "classes.json")
    images, masks = _pairs(root, split, "masks")
    return Pairs(images, masks, _channels(images), classes, colours)


def _regress(root: Path, split: str) -> Source:
    images, maps = _pairs(root, split, "targets")
    return Pairs(images, maps, _channels(images), maps=_channels(maps))


def _restore(root: Path, split: str) -> Source:
    folder = root / split / "images"
    images = image_files(folder if folder.is_dir() else root / split, root)
    return Pictures(images, _channels(images), 1 if split == "train" else SSIM_WINDOW)


def _classify(root: Path, split: str) -> Source:
    # The names of training decide, so that a class has one number in every split.
    names = sorted(path.name for path in (root / "train").glob("*/") if not path.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{root / 'train'}: got {len(names)} folders, expected one for each of two classes or more")
    if "images" in names:
        raise DataError(
            f"{root / 'train' / 'images'}: is no class, expected a folder for each class, and no task of pairs"
        )
    if not (root / split).is_dir():
        raise DataError(f"{root / split}: no such folder")
    unknown = sorted({path.name for path in (root / split).glob("*/")} - set(names))
    if unknown:
        raise DataError(f"{root / split / unknown[0]}: is no class of train, expected one of {', '.join(names)}")
    found = [(path, names.index(name)) for name in names for path in image_files(root / split / name, root)]
    images, labels = [path for path, _ in found], [label for _, label in found]
    return Labelled(images, labels, _channels(images), tuple(names))


def _channels(images: list[Path]) -> int:
    """Return the channels of the first image that can be read; what cannot is named when all are checked."""
    for path in images:
        with suppress(DataError):
            return count_channels(path)
    return 3


def _pairs(root: Path, split: str, folder: str) -> tuple[list[Path], list[Path]]:
    images = image_files(root / split / "images", root)
    by_stem = {path.stem: path for path in image_files(root / split / folder, root)}
    for path in images:
        if path.stem not in by_stem:
            raise DataError(f"{path}: has no file of the same name in {root / split / folder}")
    return images, [by_stem[path.stem] for path in images]


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return names and colours of a class table: a list of names, or entries with `name` and `color` by number."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        table = content["classes"] if isinstance(content, dict) else content
        entries = [table[str(number)] for number in range(len(table))] if isinstance(table, dict) else list(table)
        names = tuple(str(entry["name"]) if isinstance(entry, dict) else str(entry) for entry in entries)
        own = [entry.get("color") for entry in entries if isinstance(entry, dict)]
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in filter(None, own))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or repr(error)
        raise DataError(
            f"{path}: cannot be read as the table of classes ({reason}); expected a list of names, or "
            '{"classes": {"0": {"name": "road", "color": [128, 64, 128]}, ...}}'
        ) from error
    if not all(0 <= level <= 255 for colour in colours for level in colour):
        raise DataError(f"{path}: got colours beyond 0 to 255, expected red, green and blue of 8 bits each")
    if not 2 <= len(names) < IGNORE:
        raise DataError(f"{path}: got {len(names)} classes, expected 2 to {IGNORE - 1}")
    return names, colours if len(colours) == len(names) else ()


def _map(path: Path) -> torch.Tensor:
    values = read_array(path)
    planes = torch.from_numpy(values.astype(np.float32)).reshape(*values.shape[:2], -1).movedim(2, 0)
    if values.dtype.kind in "ui":
        planes = planes / np.iinfo(values.dtype).max
    if not planes.isfinite().all():
        raise DataError(f"{path}: holds values that are no finite number; expected finite ones")
    return planes.contiguous()


def _size(image: torch.Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"
