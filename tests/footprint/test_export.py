"""A module as a graph of operators."""

import pytest
import torch
from torch import nn

from atrous import ShapeError, UnsupportedModule
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


class Sum(nn.Module):
    def forward(self, x, y):
        return x.add_(y)


class Decides(nn.Module):
    def forward(self, x):
        return x.mul_(0) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("module", "shapes", "sentence"),
    [
        (
            nn.Conv1d(2, 1, 3),
            [(1, 3, 9)],
            "Conv1d does not run on the example: .* to have 2 channels, but got 3 channels",
        ),
        (Sum(), [(1, 1, 9)], r"Sum does not run on the example: .* missing 1 required positional argument: 'y'; give"),
    ],
)
def test_an_example_that_the_network_does_not_take_is_named(module, shapes, sentence):
    with pytest.raises(ShapeError, match=f"verb: {sentence}"):
        export("verb", module, tuple(map(torch.zeros, shapes)))


def test_control_flow_is_named_and_the_example_is_left_alone():
    image = torch.ones(1, 1, 5)
    with pytest.raises(UnsupportedModule, match=r"Decides cannot be exported: .*; write its control flow without"):
        export("verb", Decides(), (image,))
    assert image.sum() == 5


def test_an_example_of_another_kind_is_named():
    with pytest.raises(ShapeError, match=r"verb: got int, expected a tensor \(B, C, \*S\) such as the network takes"):
        export("verb", nn.ReLU(), (3,))


def test_an_example_beside_an_exported_program_is_refused():
    image = torch.zeros(1, 1, 9)
    program = torch.export.export(nn.Conv1d(1, 1, 3), (image,))
    with pytest.raises(ShapeError, match="got an exported program and 1 example inputs, expected the program alone"):
        export("verb", program, (image,))
