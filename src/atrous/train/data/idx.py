"""Images and classes in the idx format of MNIST, gzip or not; Fashion-MNIST as Debian installs it.

Legend: N images, H, W image size.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous._errors import DataError
from atrous.train.data.images import standardise
from atrous.train.data.source import Chosen, Item, Source, Splits

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` has its files."""
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Classes of Fashion-MNIST, by number."""

_ENDS = ("", ".gz")


class Idx(Source):
    """Serve the grey images of an idx3-ubyte file with the classes of an idx1-ubyte file.

    Args:
        images_file: of the images; gzip if it ends in `.gz`.
        labels_file: of the classes.
        classes: their names; None are the numbers up to the highest label.

    Shape:
        Items are (1, H, W) float32, standardised, and () int64.

    Raises:
        DataError: a file that is absent, truncated or of another format, files of different lengths, or a label that
            is no class; names the file.

    Source: the format is LeCun's, at MNIST.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images, labels = Path(folder, "images"), Path(folder, "labels")
        ...     _ = images.write_bytes(bytes([0, 0, 8, 3, *(0, 0, 0, 1), *(0, 0, 0, 1), *(0, 0, 0, 2), 3, 5]))
        ...     _ = labels.write_bytes(bytes([0, 0, 8, 1, *(0, 0, 0, 1), 1]))
        ...     Idx(images, labels, ("cat", "dog"))[0]
        (tensor([[[-1.,  1.]]]), tensor(1))
    """

    channels = 1

    def __init__(
        self, images_file: str | Path, labels_file: str | Path, classes: tuple[str, ...] | None = None
    ) -> None:
        self.file = Path(images_file)
        self.images, self.labels = _read(self.file, 3), _read(Path(labels_file), 1)
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{labels_file}: got {len(self.labels)} labels beside {len(self.images)} images of {images_file}, "
                "expected one for each"
            )
        highest = int(self.labels.max())
        self.classes = tuple(str(number) for number in range(highest + 1)) if classes is None else classes
        if highest >= len(self.classes):
            raise DataError(f"{labels_file}: got class {highest}, expected 0 to {len(self.classes) - 1}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Return one image and its class."""
        image = torch.from_numpy(self.images[index].astype(np.float32))
        return standardise(image[None]), torch.tensor(int(self.labels[index]))

    def name(self, index: int) -> str:
        """Return the file, and which of its images it is."""
        return f"{self.file}: image {index}"


def holds_idx(root: str | Path) -> bool:
    """Return whether a folder is laid out for `open_idx`, by its first file.

    Example:
        >>> holds_idx("absent")
        False
    """
    return any((Path(root) / f"train-images-idx3-ubyte{end}").is_file() for end in _ENDS)


def open_idx(root: str | Path, classes: tuple[str, ...] | None = None) -> Splits:
    """Return the sources of a folder with the four files of MNIST or of a set like it.

    These are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`, as they are or with `.gz`.
    Validation takes the last twelfth of the training images, 5000 of 60000; `t10k` is the test.

    Args:
        root: the folder; nothing outside of it is read, whatever links say.
        classes: their names; None are the numbers up to the highest training label.

    Raises:
        DataError: a file that is absent, leads out of the root or cannot be used, or fewer than 12 training images.

    Example:
        >>> open_idx("absent")
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: absent: has no train-images-idx3-ubyte, nor that with .gz
    """
    root = Path(root)
    train = Idx(_file(root, "train-images-idx3-ubyte"), _file(root, "train-labels-idx1-ubyte"), classes)
    test = Idx(_file(root, "t10k-images-idx3-ubyte"), _file(root, "t10k-labels-idx1-ubyte"), train.classes)
    first = len(train) - len(train) // 12
    if first == len(train):
        raise DataError(f"{train.file}: got {len(train)} images, expected at least 12, a twelfth of them to validate")
    return Splits(Chosen(train, range(first)), Chosen(train, range(first, len(train))), test)


def fashion_mnist() -> Splits:
    """Return Fashion-MNIST: 55000 images to train, 5000 to validate and 10000 to test, 28x28 grey, 10 classes.

    Raises:
        DataError: the Debian package is not installed; says how to.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.

    Example:
        >>> FASHION_CLASSES[9]
        'Ankle boot'
    """
    if not FASHION_MNIST.is_dir():
        raise DataError(
            f"{FASHION_MNIST}: no such folder; install the Debian package of it: apt install dataset-fashion-mnist"
        )
    return open_idx(FASHION_MNIST, FASHION_CLASSES)


def _file(root: Path, name: str) -> Path:
    for path in (root / f"{name}{end}" for end in _ENDS):
        if path.is_file():
            if not path.resolve().is_relative_to(root.resolve()):
                raise DataError(f"{path}: is a link that leads out of {root}; copy what it leads to")
            return path
    raise DataError(f"{root}: has no {name}, nor that with .gz")


def _read(path: Path, axes: int) -> NDArray[Any]:
    """Return the bytes of an idx file as an array of so many axes."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); expected a whole idx file") from error
    # Two zeros, 8 for unsigned bytes, the number of axes; then the length of each axis.
    if content[:4] != bytes([0, 0, 8, axes]):
        raise DataError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 {axes:02x} of an "
            f"idx{axes}-ubyte file"
        )
    header = 4 + 4 * axes
    shape = tuple(int(length) for length in np.frombuffer(content[4:header].ljust(4 * axes, b"\0"), ">u4"))
    size = math.prod(shape)
    if len(content) != header + size:
        raise DataError(
            f"{path}: holds {len(content)} bytes, expected {header + size} for {shape} by its header; it is truncated "
            "or damaged"
        )
    if not size:
        raise DataError(f"{path}: got shape {shape}, expected at least one image of at least one pixel")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
