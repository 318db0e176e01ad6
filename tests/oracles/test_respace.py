"""The page on replacing depthwise kernels does what it says, from a network of timm to a file in ONNX Runtime."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import onnx
import pytest
import timm
import torch

from atrous import nn
from atrous.convert import merge_dcls, replace_depthwise

PAGE = Path(__file__).parents[2] / "docs" / "replace-depthwise.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.]*(e[+-]\d+)?")
DIFFERENCE = re.compile(r"^(\S+), outputs up to (\S+)$", re.MULTILINE)


def words(text):
    """Return what a text says, but for numbers and the width of columns."""
    return NUMBER.sub("0", text).split()


def run_page():
    """Return the names that the page leaves, and for each text on it what the code above it printed."""
    names, shown, printed = {"__name__": "__main__"}, [], StringIO()
    for kind, content in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            with redirect_stdout(printed):
                exec(compile(content, str(PAGE), "exec"), names)
        else:
            shown.append((content, printed.getvalue()))
            printed = StringIO()
    return names, shown


# The exporter itself uses what torch and onnx are about to drop.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, shown = run_page()
    for text, printed in shown:
        assert words(text) == words(printed)
    (report, ran), (_, table), *_ = shown
    assert report.splitlines()[:-1] == ran.splitlines()[:-1]
    *moved, last = [float(taps) for taps in re.findall(r"([\d.]+)/196", table)]
    assert all(taps > 49 for taps in moved)
    assert (len(moved), last) == (3, 49)
    differences = [DIFFERENCE.findall(printed) for _, printed in shown]
    assert [len(found) for found in differences] == [1, 0, 1, 1]
    assert all(float(one) <= 1e-5 * float(most) for found in differences for one, most in found)
    assert not [module for module in names["model"].modules() if type(module).__module__.startswith("atrous")]
    graph = onnx.load("merged.onnx").graph
    assert {node.domain for node in graph.node} == {""}
    assert sum(tuple(weight.dims[1:]) == (1, 17, 17) for weight in graph.initializer) == 12


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_lite0", "fastvit_t8"])
def test_networks_keep_their_outputs_and_learn(name):
    torch.manual_seed(0)
    # In float64: in float32 the order of sums alone shows in the last digit that counts.
    model = timm.create_model(name).double().eval()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model(image)
    report = replace_depthwise(model, init="keep", dilated_kernel_size=9)
    output = model(image)
    assert (output - expected).norm() < 1e-13 * expected.norm()
    output.square().sum().backward()
    layers = [module for module in model.modules() if isinstance(module, nn.Dcls2d)]
    assert len(layers) == len(report.changed) > 10
    assert all(layer.P.grad.isfinite().all() and layer.P.grad.any() for layer in layers)
    assert (merge_dcls(model)(image) - expected).norm() < 1e-13 * expected.norm()
