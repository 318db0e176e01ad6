import pytest

import atrous

BASES = {
    "ShapeError": ValueError,
    "GeometryError": ValueError,
    "BackendError": RuntimeError,
    "UnsupportedModule": TypeError,
    "CheckpointError": ValueError,
    "DataError": ValueError,
    "MissingExtra": ImportError,
}


@pytest.mark.parametrize("name", BASES)
def test_each_error_is_an_atrous_error_and_a_builtin(name):
    error = getattr(atrous, name)
    assert issubclass(error, atrous.AtrousError)
    assert issubclass(error, BASES[name])
    assert str(error("one sentence")) == "one sentence"
