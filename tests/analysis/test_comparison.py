import json
import math

import pytest

from atrous import ShapeError
from atrous.analysis import Comparison, Contender


def make(**scores):
    return Contender("plain 7x7", 490, None, scores)


def test_mean_and_spread():
    contender = make(clean=(0.2, 0.4, 0.6))
    assert contender.mean("clean") == pytest.approx(0.4)
    assert contender.spread("clean") == pytest.approx(0.2)
    assert math.isnan(make(clean=(0.2,)).spread("clean"))


def test_one_seed_has_no_spread_and_no_time():
    assert str(Comparison((make(clean=(0.25,)),), "recall")).splitlines() == [
        "recall, %  parameters  ms/step  clean",
        "plain 7x7         490  -        25.00",
    ]


def test_plain_data_is_json():
    found = json.loads(json.dumps(Comparison((make(clean=(0.25,)),)).to_dict()))
    assert found == {
        "contenders": [{"title": "plain 7x7", "parameters": 490, "milliseconds": None, "scores": {"clean": [0.25]}}],
        "measure": "accuracy",
    }


@pytest.mark.parametrize("contenders", [(), (make(),), (make(clean=(1.0,)), make(noise=(1.0,)))])
def test_what_cannot_be_compared(contenders):
    with pytest.raises(ShapeError, match="got contenders without scores under the same headings, expected one or more"):
        Comparison(contenders)
