"""Find and load the compiled library, once."""

from __future__ import annotations

import importlib.util

import torch


def load(name: str) -> str | None:
    """Load the library that stands where a module `name` would, and return why that failed, or None."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return "the compiled operations are missing"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the compiled operations do not load ({error})"
    return None
