"""What an experiment on dilation found, as plain data for the pictures.

Legend: H, W mosaic size, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from atrous.analysis.effective import EffectiveReceptiveField
from atrous.analysis.receptive_field import LayerField
from atrous.plots.pixels import Labels


@dataclass(frozen=True)
class Variant:
    """What one network of the experiment reached.

    Args:
        name: 'front_end', 'with_context', 'undilated' or 'default_init'.
        title: the name for readers.
        mean_iou: over the classes, on the test mosaics, 0 to 1.
        class_iou: K values; nan where a class does not occur.
        prediction: (H, W) labels of the mosaic shown.
        mosaic_iou: mean IoU on that mosaic.
        losses: pairs of step and training loss.
        validation: pairs of step and validation mean IoU.
        parameters: number trained in this stage.
        seconds: of training.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((2, 3), np.uint8)
        >>> Variant("front_end", "front end", 0.5, (0.5,), labels, 0.5, ((4, 2.0),), ((9, 0.5),), 10, 1.0).mean_iou
        0.5
    """

    name: str
    title: str
    mean_iou: float
    class_iou: tuple[float, ...]
    prediction: Labels
    mosaic_iou: float
    losses: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """An experiment on dilation: what was done, on which mosaic, and what every variant reached.

    Args:
        seed: of the whole experiment.
        seconds: it took.
        versions: package to version.
        classes: K names.
        image: (H, W) the noisy mosaic, any real type.
        truth: (H, W) labels.
        variants: front end, with context, undilated control and default initialisation, in this order.
        growth: what the front end sees, then each layer of the context module, each with a few words.
        effective: how much each pixel weighs in one output of the network with context; None leaves its picture out.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((2, 3), np.uint8)
        >>> Report(0, 1.0, {}, ("brick",), labels * 0.5, labels, (), ()).classes
        ('brick',)
    """

    seed: int
    seconds: float
    versions: dict[str, str]
    classes: tuple[str, ...]
    image: NDArray[Any]
    truth: Labels
    variants: tuple[Variant, ...]
    growth: tuple[tuple[str, LayerField], ...]
    effective: EffectiveReceptiveField | None = None
