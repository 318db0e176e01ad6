"""Sources of images and labels."""

from atrous.train.data.images import read_image, standardise
from atrous.train.data.textures import Textures

__all__ = ["Textures", "read_image", "standardise"]
