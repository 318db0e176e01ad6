"""Fixtures of the whole suite."""

import pytest
import torch

from atrous._backends import table
from atrous.convert import forget_timings


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_ready() -> None:
    """Let every call choose anew, also where a test has replaced what chooses."""
    forget_timings()


@pytest.fixture
def always_taps(monkeypatch) -> None:
    """Let elements at learned positions run as taps in small windows too, where a dense kernel is faster."""
    monkeypatch.setattr(table, "SPREADS", tuple(row._replace(each=0, more=0) for row in table.SPREADS))
