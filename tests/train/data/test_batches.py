from types import SimpleNamespace

import pytest
import torch

from atrous import DataError
from atrous.train import Batched, SegmentRecipe, Source, Splits, Textures
from atrous.train.data.batches import name_batch

SOURCE = Textures("train", 11, (16, 16))


def batched(world=1, rank=0, epoch=0, **options):
    data = Batched(Splits(SOURCE, SOURCE, SOURCE), SegmentRecipe(**{"batch_size": 4, **options}))
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, current_epoch=epoch)
    return data


def flat(lists):
    return [entry for one in lists for entry in one]


def order(**options):
    return [batch.number.tolist() for batch in batched(**options).train_dataloader()]


def test_order_is_a_function_of_seed_and_epoch():
    assert sorted(flat(order())) == list(range(11))
    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=1)


def test_processes_share_the_batches_of_one():
    """The last batch is filled up where the processes cannot share it."""
    together = [flat(parts) for parts in zip(order(world=2), order(world=2, rank=1), strict=True)]
    for found, alone in zip(together, order(), strict=True):
        assert set(alone) <= set(found)
    assert len(flat(together)) == 12


def test_no_pair_is_judged_twice():
    for world in (1, 2, 3):
        found = [
            batch.number.tolist()
            for rank in range(world)
            for group in batched(world=world, rank=rank, batch_size=6).test_dataloader()
            for batch in group
        ]
        assert sorted(flat(found)) == list(range(11))


class Sizes(Source):
    channels = 1

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(1, 4 + index % 2, 6), torch.tensor(0)

    def name(self, index):
        return f"image {index}"


def test_images_of_several_sizes_are_grouped_to_judge_and_refused_to_train():
    data = Batched(Splits(Sizes(), Sizes()), SegmentRecipe(batch_size=4))
    [groups] = data.val_dataloader()
    assert [batch.number.tolist() for batch in groups] == [[0, 2], [1, 3]]
    with pytest.raises(DataError, match=r"crop: got none, and images of 6 x [45] and 6 x [45] pixels, .* set a crop"):
        list(data.train_dataloader())


def test_messages():
    with pytest.raises(DataError, match="batch_size: got 4 for 3 processes, expected a multiple of them"):
        order(world=3)
    with pytest.raises(DataError, match="data: got 11 images for 12 processes, expected one for each at least"):
        order(world=12, batch_size=12)
    with pytest.raises(DataError, match="test: the data has no such split"):
        Batched(Splits(SOURCE, SOURCE), SegmentRecipe()).test_dataloader()
    assert name_batch(Sizes(), [3, 1]) == "image 3, image 1"
