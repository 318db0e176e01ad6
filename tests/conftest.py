"""Fixtures of the whole suite."""

import pytest
import torch

from atrous.functional import conv


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_ready() -> None:
    """Let every call choose anew, also where a test has replaced what chooses."""
    conv._ready.clear()
