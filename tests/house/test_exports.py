"""What a package exports: sorted, importable, documented, and shown by an example that runs."""

import ast
import importlib
import inspect
import itertools
import pkgutil
from pathlib import Path

import pytest

import atrous

SOURCE = Path(atrous.__file__).parent
PACKAGES = sorted(
    ["atrous", *(info.name for info in pkgutil.walk_packages(atrous.__path__, "atrous.") if info.ispkg)],
)
EXPORTING = [name for name in PACKAGES if hasattr(importlib.import_module(name), "__all__")]
PUBLIC = [
    (package, name)
    for package in EXPORTING
    if not any(part.startswith("_") for part in package.split("."))
    for name in importlib.import_module(package).__all__
]


def _ids(value):
    return value if isinstance(value, str) else ".".join(value)


def _described_constants():
    """Return the names of module constants with a string right after the assignment, as documentation tools read it."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, after in itertools.pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            described = isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str)
            found |= {target.id for target in targets if described and isinstance(target, ast.Name)}
    return found


def _is_code(thing):
    return inspect.isroutine(thing) or inspect.isclass(thing)


def test_the_command_alone_exports_nothing():
    silent = {name for name in PACKAGES if name not in EXPORTING}
    assert silent <= {"atrous._backends", "atrous.cli"}, "a package says in __all__ what is public"


@pytest.mark.parametrize("package", EXPORTING)
def test_all_is_sorted_and_has_no_duplicate(package):
    names = list(importlib.import_module(package).__all__)
    assert names == sorted(set(names))


@pytest.mark.parametrize("package", EXPORTING)
def test_star_import_brings_every_name(package):
    namespace = {}
    exec(f"from {package} import *", namespace)
    assert set(importlib.import_module(package).__all__) <= namespace.keys()


@pytest.mark.parametrize("package", [name for name in EXPORTING if "._" not in name])
def test_no_private_name_is_exported(package):
    assert not [name for name in importlib.import_module(package).__all__ if name.startswith("_")]


@pytest.mark.parametrize("entry", PUBLIC, ids=_ids)
def test_is_documented(entry):
    package, name = entry
    thing = getattr(importlib.import_module(package), name)
    if _is_code(thing) or inspect.ismodule(thing):
        # Not the docstring of a base class, nor the signature that a dataclass gives itself.
        text = thing.__doc__ or ""
        assert len(text.split()) >= 3
        assert not text.startswith(f"{name}(")
    else:
        assert name in _described_constants()


@pytest.mark.parametrize("entry", PUBLIC, ids=_ids)
def test_has_an_example_that_runs(entry):
    package, name = entry
    thing = getattr(importlib.import_module(package), name)
    if not _is_code(thing) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return
    _, found, example = (thing.__doc__ or "").partition("Example:\n")
    assert found, f"{package}.{name} has no Example in its docstring"
    assert ">>> " in example, f"the Example of {package}.{name} is no doctest"
