"""What ONNX gets: plain `Conv` nodes with explicit pads, which ONNX Runtime runs to the same numbers."""

import numpy as np
import pytest
import torch

from atrous import Geometry, functional, nn

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

# The exporter itself uses what torch and onnx are about to drop.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

FREE = ("batch", "first", "second", "third")
NETWORKS = {
    1: torch.nn.Sequential(
        nn.Conv1d(4, 4, 3, padding="causal", dilation=4, groups=4),
        nn.Conv1d(4, 6, 2, padding="same", stride=2),
        nn.Conv1d(6, 2, 3, padding=((3, 1),), dilation=2, bias=False),
    ),
    2: torch.nn.Sequential(
        nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4),
        nn.Conv2d(4, 8, (3, 2), padding=((0, 3), (2, 1)), stride=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=("causal", "same"), groups=8, dilation=(1, 3), bias=False),
        nn.Conv2d(8, 2, 2, padding=1),
    ),
    3: torch.nn.Sequential(
        nn.Conv3d(2, 2, 3, padding=("causal", "same", 0), groups=2),
        nn.Conv3d(2, 3, (1, 2, 3), padding="same", dilation=2, stride=(1, 1, 2)),
    ),
}


def export(module, input):
    names = [0, *range(2, input.ndim)]
    free = {axis: torch.export.Dim(name) for axis, name in zip(names, FREE, strict=False)}
    return torch.onnx.export(module.eval(), (input,), dynamo=True, dynamic_shapes=(free,), verbose=False)


def run(program, input):
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return session.run(None, {name: input.numpy()})[0]


@pytest.mark.parametrize("ndim", NETWORKS)
def test_every_convolution_is_one_node(ndim):
    network = NETWORKS[ndim]
    channels = network[0].in_channels
    program = export(network, torch.randn(2, channels, *(14, 13, 12)[:ndim]))
    assert [(node.op_type, node.domain) for node in program.model.graph] == [("Conv", "")] * len(network)
    for node, layer in zip(program.model.graph, network, strict=True):
        geometry = Geometry.resolve(layer.kernel_size, layer.stride, layer.padding, layer.dilation, ndim=ndim)
        assert node.attributes["pads"].value == tuple(np.transpose(geometry.padding).flatten())
        assert node.attributes["dilations"].value == geometry.dilation
    input = torch.randn(3, channels, *(21, 16, 17)[:ndim])
    np.testing.assert_allclose(run(program, input), network(input).detach(), rtol=1e-4, atol=1e-5)


def test_other_padding_modes_pad_first():
    layer, input = nn.Conv2d(2, 2, 3, padding=(2, 1), padding_mode="reflect"), torch.randn(2, 2, 9, 8)
    program = export(layer, input)
    assert [(node.op_type, node.domain) for node in program.model.graph] == [("Pad", ""), ("Conv", "")]
    np.testing.assert_allclose(run(program, input), layer(input).detach(), rtol=1e-4, atol=1e-5)


class Taps(torch.nn.Module):
    def forward(self, input):
        offsets = torch.tensor([[0, 3], [-2, 1]])
        return functional.tap_conv(input, torch.ones(4, 1, 2), offsets)


def test_sums_over_taps_are_the_reference():
    input = torch.randn(2, 4, 9, 8)
    program = torch.onnx.export(Taps().eval(), (input,), dynamo=True, verbose=False)
    assert {node.domain for node in program.model.graph} == {""}
    np.testing.assert_allclose(run(program, input), Taps()(input), rtol=1e-4, atol=1e-5)


def test_the_older_exporter_too(tmp_path):
    layer, input = NETWORKS[2][0], torch.randn(2, 4, 9, 8)
    with pytest.warns(torch.jit.TracerWarning):
        torch.onnx.export(layer.eval(), (input,), tmp_path / "layer.onnx", dynamo=False)
    session = runtime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: input.numpy()})[0]
    np.testing.assert_allclose(result, layer(input).detach(), rtol=1e-4, atol=1e-5)
