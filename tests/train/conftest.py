"""A small folder of images and masks, as a person would have one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.models import ScoreUpsample
from atrous.train import Batched, Segment, SegmentRecipe, Source, Splits

COUNTS = {"train": 6, "val": 3, "test": 3}


def write_pairs(root, size=(40, 48), counts=COUNTS):
    """Dark to the left and light to the right of a border; three rows that do not count."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros(size, np.uint8)
            mask[:, random.integers(12, size[1] - 12) :] = 1
            grey = 60 + 120 * mask + random.normal(0, 20, size)
            image = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
            mask[:3] = 255
            Image.fromarray(image).save(root / split / "images" / f"{number:03}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number:03}.png")
    table = {"classes": {"0": {"name": "left", "color": [10, 20, 30]}, "1": {"name": "right", "color": [200, 0, 0]}}}
    (root / "classes.json").write_text(json.dumps(table))
    return root


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


class Signs(Source):
    """Two classes that the sign of one channel tells apart."""

    channels, classes = 1, ("negative", "positive")

    def __init__(self, count=24):
        self.images = torch.randn(count, 1, 6, 6)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], (self.images[index, 0] > 0).long()

    def name(self, index):
        return f"sign {index}"


@pytest.fixture
def signs():
    """Return data, and a function that makes a task for it."""
    source = Signs()

    def make(**options):
        recipe = SegmentRecipe(**{"learning_rate": 0.1, "batch_size": 4, "mirror": False, **options})
        task = Segment(torch.nn.Conv2d(1, 2, 1), ScoreUpsample(1), 2, recipe)
        return task, Batched(Splits(source, source, source), recipe)

    return make
