import pytest

from atrous import MissingExtra
from atrous._extras import missing, need


def test_installed():
    assert missing("train") == missing("plots") == missing("export") == []
    need("train", "atrous.train")


def test_message(monkeypatch):
    monkeypatch.setattr("atrous._extras.find_spec", lambda name: None if name in ("rich", "PIL") else object())
    with pytest.raises(
        MissingExtra, match=r"atrous.train needs PIL, rich; install them by: pip install 'atrous\[train\]'"
    ):
        need("train", "atrous.train")
