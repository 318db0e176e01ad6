"""Batches of a training run: their order is a function of seed and epoch alone."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, DistributedSampler, default_collate

from atrous._errors import DataError
from atrous.train.config import Recipe
from atrous.train.data.augment import Epoch, Numbered
from atrous.train.data.source import Source, Splits

Batches = DataLoader[Numbered]


class Batched(lightning.LightningDataModule):
    """Serve the splits of a data set to Lightning, to one process or to many.

    A batch has the same images whatever the number of processes: each takes its share of `recipe.batch_size`.

    Args:
        splits: the sources.
        recipe: says batch size, order and augmentation.

    Raises:
        DataError: in training, a batch size that the processes cannot share.

    Example:
        >>> from atrous.train import Textures
        >>> from atrous.train.config import SegmentRecipe
        >>> splits = Splits(Textures("train", 4, (16, 16)), Textures("val", 2, (16, 16)))
        >>> batches = Batched(splits, SegmentRecipe(batch_size=2)).train_dataloader()
        >>> [index.tolist() for _, _, index in batches]
        [[0, 1], [3, 2]]
    """

    def __init__(self, splits: Splits, recipe: Recipe) -> None:
        super().__init__()
        self.splits = splits
        self.recipe = recipe

    def train_dataloader(self) -> Batches:
        """Return the batches of the epoch that the trainer is in."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        dataset = Epoch(self.splits.train, self.recipe, epoch)
        loader = self._loader(dataset, shuffle=True)
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return loader

    def val_dataloader(self) -> Batches:
        """Return the batches of the validation."""
        return self._loader(Epoch(self.splits.val))

    def test_dataloader(self) -> Batches:
        """Return the batches of the test.

        Raises:
            DataError: no test split.
        """
        if self.splits.test is None:
            raise DataError("test: the data has no such split, expected train, val and test")
        return self._loader(Epoch(self.splits.test))

    def _loader(self, dataset: Epoch, *, shuffle: bool = False) -> Batches:
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        size, rest = divmod(self.recipe.batch_size, world)
        if rest or not size:
            raise DataError(
                f"batch_size: got {self.recipe.batch_size} for {world} processes, expected a multiple of them"
            )
        if len(dataset) < world:
            raise DataError(f"data: got {len(dataset)} images for {world} processes, expected one for each at least")
        workers = self.recipe.workers
        if not shuffle:
            # No pair twice, as a sampler of equal shares would have it.
            mine = range(rank, len(dataset), world)
            return DataLoader(dataset, size, sampler=mine, num_workers=workers, collate_fn=by_size)
        sampler: DistributedSampler[Numbered] = DistributedSampler(dataset, world, rank, seed=self.recipe.seed)
        return DataLoader(dataset, size, sampler=sampler, num_workers=workers, collate_fn=_one)


def by_size(items: list[Numbered]) -> list[Any]:
    """Return a batch for every size of image among the items.

    Example:
        >>> items = [Numbered(torch.zeros(1, side, 4), torch.tensor(0), side) for side in (3, 2, 3)]
        >>> [batch.number.tolist() for batch in by_size(items)]
        [[3, 3], [2]]
    """
    sizes: dict[torch.Size, list[Numbered]] = {}
    for item in items:
        sizes.setdefault(item.input.shape, []).append(item)
    return [default_collate(alike) for alike in sizes.values()]


def _one(items: list[Numbered]) -> Any:
    batches = by_size(items)
    if len(batches) > 1:
        one, other = (f"{batch.input.shape[-1]} x {batch.input.shape[-2]}" for batch in batches[:2])
        raise DataError(f"crop: got none, and images of {one} and {other} pixels, which make no batch; set a crop")
    return batches[0]


def name_batch(source: Source, indices: list[int]) -> str:
    """Say which pairs a batch has.

    Example:
        >>> from atrous.train import Textures
        >>> name_batch(Textures("val", 3), [2, 0])
        'val mosaic 2, val mosaic 0'
    """
    return ", ".join(source.name(index) for index in indices)
