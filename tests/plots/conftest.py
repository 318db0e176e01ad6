from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from atrous.analysis.receptive_field import LayerField
from atrous.plots import Report, Variant


def grown(first: str, *fields: int) -> tuple[tuple[str, LayerField], ...]:
    """Return layers of square fields at stride 4, the first one under a name of its own."""
    layers = [
        LayerField("", "conv2d", (side,) * 2, (Fraction(4),) * 2, (0, 0), (9, 9), (False,) * 2, True) for side in fields
    ]
    return tuple((f"layer {index}" if index else first, layer) for index, layer in enumerate(layers))


SCORES = {"front_end": 0.5444, "with_context": 0.6613, "undilated": 0.593, "default_init": 0.412}
TITLES = ("front end", "with context", "undilated control", "default initialisation")


@pytest.fixture
def make_report() -> Callable[..., Report]:
    """Return a function from mean IoUs by name (and other fields) to a report of 3 classes on a 60 x 90 mosaic."""

    def make(scores: dict[str, float] | None = None, **fields: object) -> Report:
        rng = np.random.default_rng(0)
        truth = np.repeat(np.arange(3), 30)[None].repeat(60, 0)
        variants = []
        for index, (name, score) in enumerate((SCORES | (scores or {})).items()):
            prediction = np.where(rng.random(truth.shape) < 0.3, 0, truth)
            losses, validation = ((0, 1.1), (5, 0.7 + index / 10)), ((5, score - 0.01),)
            class_iou = (score, score - 0.1, score + 0.057)
            variants.append(
                Variant(name, TITLES[index], score, class_iou, prediction, 0.7, losses, validation, 1234 + index, 9.4)
            )
        values = {
            "seed": 3,
            "seconds": 1512.3,
            "versions": {"torch": "2.11.0", "atrous": "0.1.0"},
            "classes": ("brick", "grass", "<gravel>"),
            "image": rng.normal(size=truth.shape),
            "truth": truth,
            "variants": tuple(variants),
            "growth": grown("front end alone", 18, 26, 42, 50),
        }
        return Report(**(values | fields))

    return make
