"""Using a trained network on image files.

Legend: A channels, C classes, M outputs, H, W image size.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.progress import track

from atrous._errors import DataError, ShapeError
from atrous._files import whole_file, writable_folder
from atrous.plots import grey, overlay, palette, save_indexed, save_picture, viewable
from atrous.plots.pixels import Pixels
from atrous.train.data import read_image, standardise
from atrous.train.data.folder import image_files
from atrous.train.weights import NetworkConfig, load_network

_SUFFIXES = {"segment": ("", "_overlay"), "restore": ("",), "regress": ("",), "classify": ()}
TABLE = "classes.csv"


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Args:
        image: (A, H, W) in the file's own units.
        output: (C, H, W) scores, (A, H, W) restored, (M, H, W) values, or (C,) scores.
        config: says what it is.

    Example:
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> Prediction(torch.zeros(1, 4, 4), torch.zeros(2, 4, 4), config).labels().shape
        (4, 4)
    """

    image: torch.Tensor
    output: torch.Tensor
    config: NetworkConfig

    def labels(self) -> Pixels:
        """Return the likeliest class of every pixel, (H, W)."""
        return self.output.argmax(0).to(torch.uint8).numpy()

    def write(self, path: Path, *, probabilities: bool = False) -> None:
        """Write the picture of the prediction, and what goes with it, beside `path`."""
        if self.config.task == "segment":
            colours = np.array(self.config.colours or palette(len(self.config.classes)), np.uint8)
            save_indexed(self.labels(), colours, path)
            save_picture(overlay(_shown(self.image), self.labels(), colours), _beside(path, "_overlay.png"))
            if probabilities:
                _write_maps(self.output.softmax(0), _beside(path, "_probabilities.tif"))
        elif self.config.task == "restore":
            pixels = (255 * self.output.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
            if pixels.shape[2] not in (1, 3):
                _write_maps(self.output, path.with_suffix(".tif"))
            save_picture(pixels if pixels.shape[2] == 3 else pixels[..., 0], path)
        else:
            binary = self.config.settings.get("loss") == "binary"
            maps = self.output.sigmoid() if binary else self.output
            _write_maps(maps, path.with_suffix(".tif"))
            save_picture(grey(maps[0].numpy()), path)


def predict_files(
    images: Sequence[str | Path],
    weights: str | Path,
    out: str | Path,
    *,
    probabilities: bool = False,
    skip_bad: bool = False,
) -> list[Path]:
    """Run a trained network on image files and folders of them, and write what it says of each.

    segment   `NAME.png`, class numbers in class colours, and `NAME_overlay.png`; `NAME_probabilities.tif` if wanted
    restore   `NAME.png`, the restored image; the file is the noisy, small or mosaicked one; `NAME.tif` too if it has
              other channels than grey or RGB
    regress   `NAME.tif`, the values in float32, and `NAME.png`, the first of them as grey
    classify  `classes.csv`, a line for each image: file, class, and the probability of every class

    Images are treated as in training. All file names are checked before the first image is touched.

    Args:
        images: files that Pillow or tifffile reads, and folders.
        weights: a file of `save_network`.
        out: the folder; made if absent.
        probabilities: of every class at every pixel too, (C, H, W) float32.
        skip_bad: leave out images that cannot be read, and list them on standard error.

    Returns:
        The paths of the PNGs, in the order of `images`, or of the table.

    Raises:
        DataError: an image that is absent or cannot be read, two images of the same name, or a folder that cannot be
            written.
        CheckpointError: a weights file that is not what it should be.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from atrous.train import NetworkConfig, save_network
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30)).save(f"{folder}/wall.png")
        ...     save_network(config.build(), config, f"{folder}/net.safetensors")
        ...     masks = predict_files([f"{folder}/wall.png"], f"{folder}/net.safetensors", f"{folder}/out")
        >>> [path.name for path in masks]
        ['wall.png']
    """
    paths = [path for image in images for path in _files(Path(image))]
    network, config = load_network(weights)
    if probabilities and config.task != "segment":
        raise DataError(f"probabilities: got weights for {config.task}, expected segment; classify always writes them")
    _check_names(paths, Path(out), _SUFFIXES[config.task])
    folder = writable_folder(out)
    console, written, rows = Console(stderr=True), [], []
    for path in track(paths, "predicting", console=console, transient=True, disable=not console.is_terminal):
        try:
            found = predict_image(path, network, config)
        except DataError as error:
            if not skip_bad:
                raise
            console.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
            continue
        if config.task == "classify":
            shares = found.output.softmax(0).tolist()
            rows.append([str(path), config.classes[int(found.output.argmax())], *shares])
        else:
            written.append(folder / f"{path.stem}.png")
            found.write(written[-1], probabilities=probabilities)
    if not written and not rows:
        raise DataError(f"{images[0]}: got no image that can be used, expected at least one")
    if config.task == "classify":
        written.append(folder / TABLE)
        _write_table(rows, config.classes, written[-1])
    return written


def predict_image(
    path: str | Path, network: Callable[[torch.Tensor], torch.Tensor], config: NetworkConfig
) -> Prediction:
    """Return what a network says of one image file.

    Raises:
        DataError: an image that cannot be read, or that the network cannot take.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> from PIL import Image
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> with NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("L", (40, 30)).save(file.name)
        ...     predict_image(file.name, config.build(), config).output.shape
        torch.Size([2, 30, 40])
    """
    restores = config.task == "restore"
    image = read_image(path, config.channels, unit=restores)
    try:
        with torch.inference_mode():
            output = network((image if restores else standardise(image))[None])[0]
    except ShapeError as error:
        raise DataError(f"{path}: {error}") from error
    return Prediction(image, output, config)


def _shown(image: torch.Tensor) -> Pixels:
    """Return 8-bit pixels to lay colours over: the file's own if they are 8-bit colours, else stretched ones."""
    own = len(image) == 3 and image.min() >= 0 and image.max() <= 255 and bool((image == image.round()).all())
    return image.permute(1, 2, 0).byte().numpy() if own else viewable(image.numpy())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


def _write_maps(maps: torch.Tensor, path: Path) -> None:
    # One map is a plane, several lie one after the other.
    one = len(maps) == 1
    with whole_file(path) as part:
        tifffile.imwrite(
            part,
            maps[0].numpy() if one else maps.numpy(),
            photometric="minisblack",
            planarconfig=None if one else "separate",
            compression="zlib",
        )


def _write_table(rows: list[list[object]], classes: tuple[str, ...], path: Path) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "class", *classes], *rows])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return image_files(path, path)
    if not path.is_file():
        raise DataError(f"{path}: no such image file")
    return [path]


def _check_names(paths: Sequence[Path], out: Path, suffixes: tuple[str, ...]) -> None:
    for path in paths:
        if path.resolve().parent == out.resolve():
            raise DataError(f"{path}: lies in the output folder {out}, where its prediction would replace it")
    outputs = Counter(path.stem + suffix for path in paths for suffix in suffixes)
    twice = [name for name, count in outputs.items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}.png: two images would share this output; predict them into different folders")
