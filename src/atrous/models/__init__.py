"""Networks of the papers: one paper, one file."""

from atrous.models.segnet import SegNet
from atrous.models.yu_koltun import (
    DilatedNet,
    FrontEnd,
    ScoreUpsample,
    dilation7,
    dilation8,
    dilation10,
    dilation_small,
)

__all__ = [
    "DilatedNet",
    "FrontEnd",
    "ScoreUpsample",
    "SegNet",
    "dilation10",
    "dilation7",
    "dilation8",
    "dilation_small",
]
