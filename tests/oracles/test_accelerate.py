"""Networks of timm and torchvision compute the same after `accelerate`, and are their old selves after `restore`."""

import copy
from functools import partial

import pytest
import timm
import torch
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import atrous
from atrous.testing import assert_within_budget

NETWORKS = {
    "convnext": partial(timm.create_model, "convnext_atto"),
    "mobilenetv3": partial(timm.create_model, "mobilenetv3_small_050"),
    "efficientnet": partial(timm.create_model, "efficientnet_lite0"),
    "regnet": partial(timm.create_model, "regnetx_002"),
    "mobilenetv2-stride-8": partial(timm.create_model, "mobilenetv2_050", output_stride=8),
    "deeplabv3-mobilenet": partial(deeplabv3_mobilenet_v3_large, weights=None, weights_backbone=None),
}

SMOOTH = {"ReLU": torch.nn.SiLU, "ReLU6": torch.nn.SiLU, "Hardswish": torch.nn.SiLU, "Hardsigmoid": torch.nn.Sigmoid}
"""What stands in for activations with a kink, by class name: a gradient there jumps with the last bit of its input."""


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def _smooth(model):
    for module in list(model.modules()):
        for name, child in module.named_children():
            if stand_in := SMOOTH.get(type(child).__name__):
                setattr(module, name, stand_in())
    return model


def _convolutions(model):
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}


def _run(model, image):
    """Return the output, what batch normalisation has learned, and every gradient, by name."""
    image = image.clone().requires_grad_()
    torch.manual_seed(1)  # for dropout
    output = model(image)
    output = output["out"] if isinstance(output, dict) else output
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    output.backward(grad.to(output.dtype))
    gradients = {f"gradient of {name}": weight.grad for name, weight in model.named_parameters()}
    return {"output": output.detach(), **dict(model.named_buffers()), "gradient of the image": image.grad, **gradients}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_and_gradients_are_the_same(network, mode):
    _smooth(network).train(mode == "train")
    image = torch.randn(2, 3, 64, 64)
    accelerated = copy.deepcopy(network)
    assert atrous.accelerate(accelerated).changed
    exact = _run(copy.deepcopy(network).double(), image.double())
    reference, result = _run(network, image), _run(accelerated, image)
    assert result.keys() == exact.keys()
    for name, value in result.items():
        if exact[name].is_floating_point():
            assert_within_budget(value, reference[name], exact[name], what=name)


def test_every_convolution_is_in_the_report_and_restored(network):
    network.eval()
    image = torch.randn(2, 3, 64, 64)
    before, state, expected = _convolutions(network), network.state_dict(), _run(network, image)
    report = atrous.accelerate(network)
    after = _convolutions(network)
    assert {row.name for row in report.changed} == {name for name in before if after[name] is not before[name]}
    assert {row.name for row in (*report.changed, *report.kept)} == before.keys()
    assert network.state_dict().keys() == state.keys()
    atrous.restore(network)
    assert _convolutions(network) == before
    network.zero_grad()
    restored = _run(network, image)
    assert all(torch.equal(restored[name], value) for name, value in expected.items())
