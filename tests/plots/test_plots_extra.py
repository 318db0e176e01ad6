import importlib
import sys

import pytest

import atrous.plots
from atrous import MissingExtra


def test_without_the_extra_the_import_names_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("atrous.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"atrous\.plots needs PIL; install them by: pip install 'atrous\[plots\]'"):
        importlib.import_module("atrous.plots")


def test_every_export_is_there_and_sorted():
    assert atrous.plots.__all__ == sorted(atrous.plots.__all__)
    assert all(getattr(atrous.plots, name).__doc__ for name in atrous.plots.__all__)
