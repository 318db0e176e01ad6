import pytest

from atrous import GeometryError
from atrous.models._kernels import chosen

KERNELS = {"plain": {}, "wide": {"size": 7, "rate": 2}}


def test_defaults_stand_for_what_is_not_given():
    assert chosen("Net", KERNELS, "wide", {"rate": 3}) == {"size": 7, "rate": 3}
    assert chosen("Net", KERNELS, "plain", {}) == {}
    assert KERNELS["wide"] == {"size": 7, "rate": 2}


@pytest.mark.parametrize(
    ("kernel", "given", "message"),
    [
        ("narrow", {}, r"^Net: kernel: got 'narrow', expected one of \('plain', 'wide'\)$"),
        ("plain", {"rate": 3}, r"^Net: rate: got 3, expected only options of kernel='plain' \(it has none\); leave"),
        (
            "wide",
            {"count": 3},
            r"^Net: count: got 3, expected only options of kernel='wide' \(size, rate\); leave it out, or",
        ),
    ],
)
def test_what_cannot_be_is_named(kernel, given, message):
    with pytest.raises(GeometryError, match=message):
        chosen("Net", KERNELS, kernel, given)
