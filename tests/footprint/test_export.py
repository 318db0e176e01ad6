"""A module as a graph of operators."""

import torch
from torch import nn

from atrous.footprint.export import arguments, constants, evaluating, export, module_of


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(1, 1, 3, stride=2)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x):
        y = self.inner(x)
        y += self.shift
        return y


def test_no_operation_is_in_place_and_constants_are_known():
    program = export("verb", Adds(), (torch.zeros(1, 1, 9),))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert [str(node.target) for node in calls] == ["aten.conv1d.default", "aten.add.Tensor"]
    assert [module_of(node) for node in calls] == ["inner", ""]
    fixed, inputs = constants(program)
    assert inputs == ["x"]
    assert set(fixed) == {"p_inner_weight", "p_inner_bias", "b_shift"}
    named = arguments(calls[0], {"x": "the image"}, fixed)
    assert (named["input"], named["stride"], named["groups"]) == ("the image", [2], 1)
    assert named["weight"] is fixed["p_inner_weight"]


def test_every_module_gets_its_own_mode_back():
    network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]
