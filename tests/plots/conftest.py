from collections.abc import Callable

import numpy as np
import pytest

from atrous.plots import Report, Variant

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
            "growth": ((1, 3), (2, 7), (1, 9)),
            "stride": 4,
            "front_end_field": 18,
        }
        return Report(**(values | fields))

    return make
