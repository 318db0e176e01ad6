"""What the pages show runs, and the reference names everything that is public."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import atrous

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
BLOCK = re.compile(r"^( *)```(python|pycon)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
ELSEWHERE = "replace-depthwise.md"
"""It needs timm; tests/oracles/test_respace.py runs it."""
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def _page_name(path):
    return str(path.relative_to(ROOT))


def _packages():
    for path in sorted(Path(atrous.__file__).parent.rglob("__init__.py")):
        parts = path.parent.relative_to(Path(atrous.__file__).parent).parts
        package = ".".join(("atrous", *parts))
        if not any(part.startswith("_") for part in parts) and hasattr(importlib.import_module(package), "__all__"):
            yield package


PUBLIC = [(package, name) for package in _packages() for name in importlib.import_module(package).__all__]


def _blocks(path):
    """Return (kind, line of its first line, code) of every block of Python on a page."""
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        indent, kind, code = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        yield kind, line, "".join(part.removeprefix(indent) for part in code.splitlines(keepends=True))


def _identifiers():
    return [
        name for page in REFERENCE.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]


def _resolve(identifier):
    """Find an object as the documentation tool does: through modules first, so that a function may share a name."""
    parts = identifier.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            thing = getattr(thing, name)
        return thing
    raise AssertionError(f"no module in {identifier}")


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != ELSEWHERE], ids=_page_name)
def test_every_block_of_python_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for kind, line, code in _blocks(path):
        where = f"{_page_name(path)}:{line}"
        if kind == "python":
            # Blank lines in front, so that a traceback shows the line of the page.
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(code, names, where, str(path), line - 1)
        runner, report = doctest.DocTestRunner(verbose=False), []
        runner.run(test, out=report.append, clear_globs=False)
        assert test.examples, f"{where}: a console block without a prompt"
        assert not runner.failures, "".join(report)
        names.update(test.globs)


def test_blocks_are_found():
    kinds = [kind for path in PAGES for kind, _, _ in _blocks(path)]
    fences = sum(len(re.findall(r"^ *```py", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in PAGES)
    assert len(kinds) == fences, "a fence of Python is not closed, or has another name than python or pycon"
    assert {"python", "pycon"} <= set(kinds)


def test_no_page_has_python_without_a_fence_name():
    unnamed = [_page_name(path) for path in PAGES for block in _unnamed(path) if ">>> " in block]
    assert not unnamed


def _unnamed(path):
    """Return what is outside the named blocks of a page."""
    return BLOCK.sub("", path.read_text(encoding="utf-8")).split("\n\n")


@pytest.mark.parametrize("identifier", _identifiers())
def test_the_reference_names_what_exists(identifier):
    _resolve(identifier)


def test_the_reference_names_nothing_twice():
    names = _identifiers()
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("entry", PUBLIC, ids=".".join)
def test_a_public_name_is_in_the_reference(entry):
    package, name = entry
    thing = getattr(importlib.import_module(package), name)
    if f"{package}.{name}" in dict.fromkeys(_packages()):
        return  # a package: its own names are tested
    assert any(_resolve(identifier) is thing for identifier in _identifiers())


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert not [page for page in pages if f": {page}\n" not in navigation]
