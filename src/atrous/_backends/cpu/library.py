"""Find and load the compiled library, once."""

from __future__ import annotations

import importlib.util

import torch

# Where they cannot be built the package installs without them, and only a verbose installation says so.
_REMEDY = "`pip install -v .` from a clone builds them, or shows whether a C++ compiler is missing or the build fails"


def load(name: str) -> str | None:
    """Load the library that stands where a module `name` would, and return why that failed and what to do, or None."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return f"the compiled operations are missing; {_REMEDY}"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the compiled operations do not load ({error}); {_REMEDY}"
    return None
