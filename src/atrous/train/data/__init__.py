"""Sources of images and targets, and the batches that are made of them."""

from atrous.train.data.augment import Epoch, augment
from atrous.train.data.batches import Batched
from atrous.train.data.folder import open_folder
from atrous.train.data.images import read_image, standardise
from atrous.train.data.patches import TexturePatches
from atrous.train.data.source import Source, Splits
from atrous.train.data.textures import Textures

__all__ = [
    "Batched",
    "Epoch",
    "Source",
    "Splits",
    "TexturePatches",
    "Textures",
    "augment",
    "open_folder",
    "read_image",
    "standardise",
]
