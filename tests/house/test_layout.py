"""Every source file has its test file, and no file breaks the rules on size, asserts and paths."""

import ast
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "atrous"
SOURCES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 400

# Source files whose tests stand elsewhere than at the mirrored path: one operation is tested on one page, whatever
# runs it, and the code of a package's __init__ with what it is for.
COVERED_BY = {
    "__main__.py": "cli/test_cli.py",
    "_backends/__init__.py": "functional/test_conv.py",
    "_backends/cpu/taps.py": "functional/test_taps.py",
    "_backends/triton/grid.py": "oracles/test_triton.py",
    "_backends/triton/kernels.py": "oracles/test_triton.py",
    "_backends/triton/taps.py": "oracles/test_triton.py",
    "_backends/triton/tiles.py": "oracles/test_triton.py",
    "_backends/reference/conv.py": "functional/test_conv.py",
    "_backends/reference/precision.py": "_backends/reference/test_taps.py",
    "_ops/__init__.py": "functional/test_taps.py",
    "convert/rivals.py": "convert/test_tune.py",
    "convert/timings.py": "convert/test_tune.py",
    "cli/__init__.py": "cli/test_cli.py",
    "functional/_check.py": "functional/test_conv.py",
    "plots/results.py": "plots/test_report.py",
}

# A word alone, not the tail of a longer path or of a closing tag.
MACHINE_PATH = re.compile(r"(?<![\w.~<$})/-])/(?:home|root|tmp|work|Users)\b(?![\w.-]*>)")


def _name(path):
    return path.relative_to(SOURCE).as_posix()


def _has_logic(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return path.name != "__init__.py" or any(isinstance(node, kinds) for node in ast.walk(_tree(path)))


def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _test_file(path):
    name = _name(path)
    if name in COVERED_BY:
        return ROOT / "tests" / COVERED_BY[name]
    return ROOT / "tests" / path.relative_to(SOURCE).with_name(f"test_{path.name.lstrip('_')}")


def _tracked():
    # A container may run the suite as another user than the owner of the checkout.
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: which files are tracked is not known")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", [path for path in SOURCES if _has_logic(path)], ids=_name)
def test_has_its_test_file(path):
    expected = _test_file(path)
    assert expected.is_file(), f"{_name(path)} has no {expected.relative_to(ROOT)}"
    assert "def test_" in expected.read_text(encoding="utf-8"), f"{expected.relative_to(ROOT)} has no test"


def test_the_table_has_no_stale_entry():
    stale = [name for name in COVERED_BY if not (SOURCE / name).is_file() or not _has_logic(SOURCE / name)]
    assert not stale


def test_no_file_is_over_the_limit():
    kernels = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h", ".py")]
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *kernels]
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES}


def test_no_assert_in_the_source():
    found = [
        f"{_name(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert not found, "raise an error of the tree instead; `python -O` drops asserts"


def test_no_machine_path_in_a_tracked_file():
    found = []
    for path in _tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture, not a text
        numbered = enumerate(lines, start=1)
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line}" for number, line in numbered if MACHINE_PATH.search(line)
        ]
    assert not found


def test_the_source_distribution_holds_every_tracked_file(tmp_path, monkeypatch):
    """Whoever has it can build, test and document the package."""
    build = pytest.importorskip("scikit_build_core.build")
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not {path.relative_to(ROOT).as_posix() for path in _tracked()} - held


@pytest.mark.parametrize("line", ["cd {}", "open('{}/x.png')", "{}", "PATH={}:b"])
def test_a_machine_path_is_seen(line):
    assert MACHINE_PATH.search(line.format("/" + "tmp"))


@pytest.mark.parametrize("line", ["https://example.org/home", "a/{}/b", "</root>", "~/work", "$HOME/work", "/workers"])
def test_no_other_path_is_mistaken(line):
    assert not MACHINE_PATH.search(line.format("tmp"))
