"""Up-sampling by a transposed convolution that starts as bilinear interpolation.

Legend: B batch, C channels, H, W size, s scale, k kernel size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from atrous._errors import GeometryError
from atrous._geometry import Ints, integers
from atrous.nn import init
from atrous.nn.conv_transposed import ConvTranspose2d


class BilinearUpsample(ConvTranspose2d):
    """Enlarge an image by an integer factor, bilinearly at first: the up-sampling layer of FCN, DRN and others.

    A depthwise transposed convolution whose kernel is a tent (`init.bilinear_`). With the default kernel size it is
    `torch.nn.functional.interpolate` with `mode="bilinear", align_corners=False`, but for the pixels within a kernel of
    the border: what lies outside of the image is 0 here, so values fade. Larger kernels blur and scale the image as
    well; where k - s is odd it moves by half a pixel of the output to the upper left.

    Args:
        channels: C.
        scale: s, pixels of the output for one of the input, one integer or one per axis.
        kernel_size: k, at least s, one integer or one per axis; None for 2 s - s % 2.
        filler: 'centred', or 'caffe' for the off-centre tents that some published weights start from.
        learnable: False freezes the weight.
        device: of the weight.
        dtype: of the weight.

    Shape:
        (B, C, H, W) to (B, C, s H, s W), or the same without B. `weight` is (C, 1, k, k), that of a
        `torch.nn.ConvTranspose2d` of C groups, so published weights load.

    Raises:
        GeometryError: sizes below 1, a kernel smaller than the scale, or an unknown filler.
        ShapeError: in the call, an input that does not fit.

    Source: Long, Shelhamer and Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015, section 3.3.

    Example:
        >>> BilinearUpsample(1, 2)(torch.tensor([[[0.0, 4.0, 8.0]] * 3]))[0, 2]
        tensor([0., 1., 3., 5., 7., 6.])
    """

    filler: Literal["centred", "caffe"] = "centred"

    def __init__(
        self,
        channels: int,
        scale: Ints,
        kernel_size: Ints | None = None,
        *,
        filler: Literal["centred", "caffe"] = "centred",
        learnable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        integers("BilinearUpsample: channels", channels, 1, 1)
        scales = integers("BilinearUpsample: scale", scale, 2, 1)
        if kernel_size is None:
            kernel_size = tuple(2 * step - step % 2 for step in scales)
        sizes = integers("BilinearUpsample: kernel_size", kernel_size, 2, 1)
        beyond = [size - step for size, step in zip(sizes, scales, strict=True)]
        if min(beyond) < 0 or any(step == 1 and more % 2 for step, more in zip(scales, beyond, strict=True)):
            raise GeometryError(
                f"BilinearUpsample: kernel_size: got {sizes} for a scale of {scales}, expected at least the scale, or "
                "pixels between would get nothing, and an odd size where the scale is 1"
            )
        window: dict[str, Any] = {"kernel_size": sizes, "stride": scales, "groups": channels, "bias": False}
        window["padding"] = tuple(-(-more // 2) for more in beyond)
        window["output_padding"] = tuple(more % 2 for more in beyond)
        super().__init__(channels, channels, **window, device=device, dtype=dtype)
        self.filler = filler
        self.reset_parameters()
        self.weight.requires_grad_(learnable)

    def reset_parameters(self) -> None:
        """Make the weight a tent again."""
        init.bilinear_(self.weight, self.filler)

    def extra_repr(self) -> str:
        """Return the arguments of the transposed convolution, and the filler."""
        return f"{super().extra_repr()}, filler={self.filler!r}"  # type: ignore[no-untyped-call]
