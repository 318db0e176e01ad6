"""A network of the kind of Yu and Koltun whose outputs are numbers of every pixel, not scores of classes.

Legend: B batch, A image channels, M outputs, H, W image size.
"""

from __future__ import annotations

import torch

from atrous.models.yu_koltun import SMALL, SMALL_HEAD, DilatedNet, FrontEnd
from atrous.nn import ContextModule, Conv2d


class DenseMap(DilatedNet):
    """Give M numbers for every pixel: front end and context module on hidden maps, one 1x1 layer, up-sampling.

    The context module starts as the identity cut off at 0, and with so few maps as outputs it would lose what lies
    below; so it works on maps of its own.

    Args:
        outputs: M.
        in_channels: A.
        width: factor on the front end's channels.
        hidden: maps between front end and context module.

    Shape:
        (B, A, H, W) to (B, M, H, W), for any H and W of at least 2.

    Raises:
        ShapeError: outputs, in_channels or hidden below 1, a width not above 0, or in the call an image that does not
            fit.

    Source: after Yu and Koltun 2016; the stages, as in `dilation_small`, and the last layer are ours.

    Example:
        >>> net = DenseMap(1, in_channels=3, width=1 / 16)
        >>> net(torch.zeros(1, 3, 50, 70)).shape, net.geometry.kernel
        (torch.Size([1, 1, 50, 70]), (322, 322))
    """

    def __init__(self, outputs: int, in_channels: int = 3, width: float = 0.25, hidden: int = 16) -> None:
        front_end = FrontEnd(hidden, in_channels, width, stages=SMALL, head=SMALL_HEAD)
        super().__init__(front_end, ContextModule(hidden, "basic", 8, "same"), "centre")
        self.last = Conv2d(hidden, outputs, 1)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return maps (B, M, ceil(H / 4), ceil(W / 4)) of an image (B, A, H, W)."""
        maps: torch.Tensor = self.last(super().features(image))
        return maps
