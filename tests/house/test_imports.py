"""The core works without any optional package, and leaves those that are installed alone."""

import json
import subprocess
import sys

import pytest

from atrous._extras import EXTRAS

KNOWN = {
    "PIL",
    "lightning",
    "matplotlib",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "skimage",
    "tensorboard",
    "tifffile",
    "torchmetrics",
}
OPTIONAL = sorted(KNOWN.union(*EXTRAS.values()))

# To the rest of the process a blocked package looks as if it were not installed.
BLOCKER = """
import sys

blocked = set()

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def _run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_core_and_info_work_without_optional_packages():
    code = """
blocked.update(sys.argv[1:])
import importlib.util
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
if present:
    sys.exit(f"not blocked: {present}")
import torch, atrous
from atrous.cli import main
atrous.functional.conv1d(torch.ones(1, 4), torch.ones(1, 1, 2))
sys.exit(main(["info", "--json"]))
"""
    facts = json.loads(_run(code, *OPTIONAL))
    assert {extra: set(text.removeprefix("lacks ").split()) for extra, text in facts["extras"].items()} == {
        extra: set(modules) for extra, modules in EXTRAS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["plots", "train"])
def test_a_room_names_its_extra(extra):
    code = """
import json, atrous
from importlib import import_module
room, *groups = json.loads(sys.argv[1])
messages = []
for group in groups:
    blocked.clear()
    blocked.update(group)
    for name in [name for name in sys.modules if name.startswith(room) or name.partition(".")[0] in group]:
        del sys.modules[name]
    try:
        import_module(room)
    except atrous.MissingExtra as error:
        messages.append(str(error))
    else:
        sys.exit(f"{room} was imported without {group}")
print(json.dumps(messages))
"""
    room = f"atrous.{extra}"
    groups = [OPTIONAL, *([name] for name in EXTRAS[extra])]
    messages = json.loads(_run(code, json.dumps([room, *groups])))
    for group, message in zip(groups, messages, strict=True):
        absent = ", ".join(name for name in EXTRAS[extra] if name in group)
        assert message == f"{room} needs {absent}; install them by: pip install 'atrous[{extra}]'"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["demo", "predict"])
def test_a_command_without_its_extra_says_so_in_one_line(command):
    arguments = {"demo": [], "predict": ["a.png", "--weights", "b.safetensors", "--out", "c"]}[command]
    code = """
import json, contextlib, io
blocked.update(json.loads(sys.argv[1]))
from atrous.cli import main
errors = io.StringIO()
with contextlib.redirect_stderr(errors):
    status = main(json.loads(sys.argv[2]))
print(json.dumps([status, errors.getvalue()]))
"""
    status, errors = json.loads(_run(code, json.dumps(OPTIONAL), json.dumps([command, *arguments])))
    assert status == 2
    assert errors.startswith("atrous: atrous.train needs ")
    assert errors.endswith("pip install 'atrous[train]'\n")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", ["atrous", "atrous.cli", "atrous.testing"])
def test_importing_the_core_imports_no_optional_package(module):
    code = """
import importlib, json
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2:]))))
"""
    assert json.loads(_run(code, module, *OPTIONAL)) == []
