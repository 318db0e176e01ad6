"""Segmenting image files with a trained network.

Legend: C classes, H, W image size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from atrous._errors import DataError, ShapeError
from atrous._files import writable_folder
from atrous.plots import grey, overlay, palette, save_indexed, save_picture
from atrous.plots.pixels import Pixels
from atrous.train.data import read_image, standardise
from atrous.train.weights import load_network


def predict_files(images: Sequence[str | Path], weights: str | Path, out: str | Path) -> list[Path]:
    """Segment image files; write `NAME.png`, a PNG of class numbers in class colours, and `NAME_overlay.png` for each.

    Every image is standardised, as in training. All file names are checked before the first image is touched.

    Args:
        images: files that Pillow reads.
        weights: a file of `save_network`.
        out: the folder; made if absent.

    Returns:
        The paths of the class PNGs, in the order of `images`.

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
    paths = [Path(image) for image in images]
    _check_names(paths, Path(out))
    network, config = load_network(weights)
    folder = writable_folder(out)
    channels = network.front_end.in_channels
    colours = palette(len(config.classes))
    written = []
    console = Console(stderr=True)
    for path in track(paths, "segmenting", console=console, transient=True, disable=not console.is_terminal):
        image = read_image(path, channels)
        try:
            with torch.inference_mode():
                labels = network(standardise(image)[None]).argmax(1)[0].numpy()
        except ShapeError as error:
            raise DataError(f"{path}: {error}") from error
        written.append(folder / f"{path.stem}.png")
        save_indexed(labels, colours, written[-1])
        save_picture(overlay(_shown(image), labels, colours), folder / f"{path.stem}_overlay.png")
    return written


def _shown(image: torch.Tensor) -> Pixels:
    """Return 8-bit pixels to lay colours over: the file's own if they are 8-bit colours, else stretched grey."""
    own = len(image) == 3 and image.min() >= 0 and image.max() <= 255 and bool((image == image.round()).all())
    return image.permute(1, 2, 0).byte().numpy() if own else grey(image[0].numpy())


def _check_names(paths: Sequence[Path], out: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such image file")
        if path.resolve().parent == out.resolve():
            raise DataError(f"{path}: lies in the output folder {out}, where its prediction would replace it")
    outputs = Counter(path.stem + suffix for path in paths for suffix in ("", "_overlay"))
    twice = [name for name, count in outputs.items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}.png: two images would share this output; predict them into different folders")
