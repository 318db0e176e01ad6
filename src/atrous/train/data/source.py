"""Where images and targets come from, seen alike by every task.

Legend: A channels, H, W image size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track

from atrous._errors import DataError

Item = tuple[torch.Tensor, torch.Tensor]


class Source(torch.utils.data.Dataset[Item], ABC):
    """Serve pairs of an image (A, H, W) float32 and its target; the same pair for the same index, always.

    Example:
        >>> from atrous.train import Textures
        >>> Textures("val", length=2).name(1)
        'val mosaic 1'
    """

    channels: int
    """A."""
    classes: tuple[str, ...] = ()
    """Name of every class, in the order of the labels."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of every class, if the source has its own."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pairs."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Return one pair."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Say which pair it is, best by its file."""


@dataclass(frozen=True)
class Splits:
    """The sources of one data set.

    Args:
        train: to learn from.
        val: to choose the best weights by.
        test: to judge by, if there is one.

    Example:
        >>> from atrous.train import Textures
        >>> Splits(Textures("train", 2), Textures("val", 2)).test is None
        True
    """

    train: Source
    val: Source
    test: Source | None = None

    def items(self) -> list[tuple[str, Source]]:
        """Return the name and the source of every split that is there."""
        named = ("train", self.train), ("val", self.val), ("test", self.test)
        return [(name, source) for name, source in named if source is not None]


class Chosen(Source):
    """Some pairs of a source.

    Args:
        source: of all.
        indices: of those chosen.

    Example:
        >>> from atrous.train import Textures
        >>> Chosen(Textures("val", length=3), [2]).name(0)
        'val mosaic 2'
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)
        self.channels, self.classes, self.colours = source.channels, source.classes, source.colours

    def __len__(self) -> int:
        """Return how many are chosen."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        """Return one of them."""
        return self.source[self.indices[index]]

    def name(self, index: int) -> str:
        """Say which pair it is."""
        return self.source.name(self.indices[index])


def checked(source: Source, what: str, *, skip_bad: bool) -> Source:
    """Read every pair once, before hours of training, and return the source, or what is left of it.

    Args:
        source: what to read.
        what: its name, for the progress bar.
        skip_bad: whether to leave out what cannot be used, and list it on standard error.

    Raises:
        DataError: the first pair that cannot be used, unless they are left out, or no pair that can.

    Example:
        >>> from atrous.train import Textures
        >>> len(checked(Textures("val", length=2, size=(16, 16)), "val", skip_bad=False))
        2
    """
    console, good = Console(stderr=True), []
    steps = track(
        range(len(source)), f"checking {what}", console=console, transient=True, disable=not console.is_terminal
    )
    for index in steps:
        try:
            source[index]
        except DataError as error:
            if not skip_bad:
                raise
            console.print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
        else:
            good.append(index)
    if not good:
        raise DataError(f"{what}: got no image that can be used, expected at least one")
    return source if len(good) == len(source) else Chosen(source, good)
