import copy

import pytest
import torch

from atrous import GeometryError, ShapeError, trace_footprint
from atrous.models import (
    ConvNeXt,
    convnext_base,
    convnext_base_dcls,
    convnext_pico,
    convnext_small,
    convnext_small_dcls,
    convnext_tiny,
    convnext_tiny_dcls,
)
from atrous.nn import Dcls2d
from atrous.testing import assert_within_budget


def small(**options):
    return ConvNeXt(5, 2, (1, 2), (8, 12), patch=2, **options)


GAUSS = {"interpolation": "gaussian", "dilated_kernel_size": 23, "kernel_count": 26}
KERNELS = {
    "7x7": {},
    "dilated": {"dilation": 3},
    "dcls": {"kernel_count": 6, "dilated_kernel_size": 9, "interpolation": "gaussian"},
    "dense17": {},
}
every_kernel = pytest.mark.parametrize(("kernel", "options"), KERNELS.items(), ids=KERNELS)


@pytest.mark.parametrize(
    ("build", "options", "parameters"),
    [
        (convnext_pico, {}, 9_045_672),
        (convnext_tiny, {}, 28_589_128),
        (convnext_small, {}, 50_223_688),
        (convnext_base, {}, 88_591_464),
        (convnext_tiny, {"kernel": "dilated"}, 28_589_128),
        (convnext_tiny, {"kernel": "dense17"}, 30_178_888),
        (convnext_tiny, {"kernel": "dcls"}, 28_587_688),
        (convnext_tiny_dcls, {}, 28_587_688),
        (convnext_tiny_dcls, {"share": False}, 28_940_200),
        (convnext_tiny_dcls, GAUSS, 28_586_536),
        (convnext_small_dcls, {}, 50_217_064),
        (convnext_base_dcls, {}, 88_582_632),
    ],
)
def test_the_published_numbers_of_parameters(build, options, parameters):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in build(1000, **options).parameters()) == parameters


def test_the_names_and_shapes_of_timm():
    found = {name: tuple(weight.shape) for name, weight in ConvNeXt(5, 3, (1, 1), (8, 16)).state_dict().items()}
    block = {
        "conv_dw": (8, 1, 7, 7),
        "norm": (8,),
        "mlp.fc1": (32, 8),
        "mlp.fc2": (8, 32),
    }
    expected = {f"stages.0.blocks.0.{name}.weight": shape for name, shape in block.items()}
    expected |= {
        "stem.0.weight": (8, 3, 4, 4),
        "stem.1.weight": (8,),
        "stages.0.blocks.0.gamma": (8,),
        "stages.1.downsample.0.weight": (8,),
        "stages.1.downsample.1.weight": (16, 8, 2, 2),
        "head.norm.weight": (16,),
        "head.fc.weight": (5, 16),
    }
    assert expected.items() <= found.items()
    biases = {name.replace("weight", "bias") for name in expected if name.endswith("weight")}
    assert {name for name in found if not name.startswith("stages.1.blocks")} == expected.keys() | biases


def test_weights_of_1x1_kernels_are_those_of_linear_layers():
    net, other = small(), small()
    state = net.state_dict()
    for name, weight in state.items():
        if "mlp.fc" in name and weight.ndim == 2:
            state[name] = weight[:, :, None, None]
    other.load_state_dict(state)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in net.state_dict().items())


@pytest.mark.parametrize("kernel", KERNELS)
def test_initial_weights(kernel):
    net = convnext_pico(10, width=0.5, kernel=kernel)
    for name, weight in net.state_dict().items():
        if name.endswith(".P"):
            assert weight.std().item() == pytest.approx(0.5, rel=0.1)
        elif name.endswith("bias"):
            assert not weight.any()
        elif weight.ndim > 1:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        else:
            assert torch.equal(weight, torch.full_like(weight, 1e-6 if name.endswith("gamma") else 1.0))


def test_a_block_is_the_formula_of_the_paper():
    net = small(layer_scale=0.5).double()
    block = net.stages[0].blocks[0]
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    y = torch.nn.functional.conv2d(x, block.conv_dw.weight, block.conv_dw.bias, padding=3, groups=8)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    y = torch.einsum("dc,bchw->bdhw", block.mlp.fc1.weight, y)
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    y = torch.einsum("dc,bchw->bdhw", block.mlp.fc2.weight, y)
    torch.testing.assert_close(block(x), x + 0.5 * y)


@pytest.mark.parametrize(
    ("size", "patch", "maps"),
    [
        ((28, 28), 1, [(28, 28), (14, 14), (7, 7), (3, 3)]),
        ((28, 28), 2, [(14, 14), (7, 7), (3, 3), (1, 1)]),
        ((67, 33), 4, [(16, 8), (8, 4), (4, 2), (2, 1)]),
    ],
)
def test_sizes_of_the_maps(size, patch, maps):
    net = convnext_pico(7, 1, patch=patch, width=1 / 16)
    image = torch.randn(2, 1, *size)
    assert [tuple(one.shape[2:]) for one in net.features(image)] == maps
    assert [one.shape[1] for one in net.features(image)] == [4, 8, 16, 32]
    assert net(image).shape == (2, 7)


def test_the_stages_of_equal_channels_halve_as_well():
    net = ConvNeXt(2, 1, (1, 1), (8, 8), patch=1)
    assert [one.shape[2] for one in net.features(torch.zeros(1, 1, 8, 8))] == [8, 4]


@every_kernel
def test_every_kernel_keeps_the_sizes_of_maps_and_learns(kernel, options):
    net = small(kernel=kernel, layer_scale=1.0, **options)
    image = torch.randn(2, 2, 21, 18)
    assert [one.shape[1:] for one in net.features(image)] == [(8, 10, 9), (12, 5, 4)]
    assert net.channels == (8, 12)
    net(image).square().sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kernel": "dilated"}, 13),
        ({"kernel": "dilated", "dilation": 3}, 19),
        ({"kernel": "dcls"}, 17),
        ({"kernel": "dense17"}, 17),
    ],
)
def test_what_a_block_reads(options, field):
    net = ConvNeXt(2, 1, (1,), (4,), patch=1, **options)
    found = trace_footprint(net.stages[0].blocks[0].conv_dw, torch.zeros(1, 4, 32, 32))
    assert found.receptive_field == (field, field)


def test_blocks_of_a_stage_have_the_same_positions():
    net = ConvNeXt(2, 1, (2, 2), (8, 8), patch=1, kernel="dcls", kernel_count=5, dilated_kernel_size=7)
    (first, second), (third, fourth) = ([block.conv_dw for block in stage.blocks] for stage in net.stages)
    assert first.P is second.P
    assert third.P is fourth.P
    # Also where two stages have as many channels.
    assert first.P is not third.P
    assert first.weight is not second.weight
    kept = [name for name in net.state_dict() if name.endswith(".P")]
    assert kept == ["stages.0.blocks.0.conv_dw.P", "stages.1.blocks.0.conv_dw.P"]
    other = copy.deepcopy(net)
    torch.nn.init.zeros_(first.P)
    other.load_state_dict(net.state_dict())
    layers = [module for module in other.modules() if isinstance(module, Dcls2d)]
    assert layers[0].P is layers[1].P
    assert not layers[1].P.any()


def test_options_of_the_networks_with_learned_positions():
    net = convnext_small_dcls(3, width=1 / 96, drop_path=0.3, kernel_count=7, interpolation="triangle", share=False)
    layers = [module for module in net.modules() if isinstance(module, Dcls2d)]
    assert {(layer.kernel_count, layer.dilated_kernel_size, layer.interpolation) for layer in layers} == {
        (7, (17, 17), "triangle")
    }
    assert len({layer.P for layer in layers}) == len(layers) == 36
    assert net.stages[3].blocks[2].drop_path == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "9x9"}, r"ConvNeXt: kernel: got '9x9', expected one of \('7x7', 'dilated', 'dcls', 'dense17'\)"),
        ({"dilation": 2}, r"ConvNeXt: dilation: got 2, expected only options of kernel='7x7' \(it has none\)"),
        (
            {"kernel": "dcls", "dilation": 2},
            r"dilation: got 2, expected only options of kernel='dcls' \(kernel_count, dilat",
        ),
        (
            {"kernel": "dense17", "share": False},
            r"share: got False, expected only options of kernel='dense17' \(it has none\)",
        ),
        ({"kernel": "dcls", "kernel_count": 0}, r"Dcls2d: .*kernel_count"),
        ({"kernel": "dilated", "dilation": 0}, r"dilation: got \(0, 0\), expected integers of at least 1"),
    ],
)
def test_kernels_that_cannot_be(options, message):
    with pytest.raises(GeometryError, match=message):
        convnext_pico(2, width=1 / 16, **options)


def test_drop_path_leaves_out_branches_in_training_alone_and_keeps_the_mean():
    torch.manual_seed(0)
    net = small(drop_path=0.5, layer_scale=1.0)
    assert [block.drop_path for stage in net.stages for block in stage.blocks] == [0, 0.25, 0.5]
    block = net.stages[1].blocks[1]
    x = torch.randn(1, 12, 4, 4).expand(4000, -1, -1, -1)
    whole = block.eval()(x)
    parts = (block.train()(x) - x)[:, 0, 0, 0] / (whole - x)[:, 0, 0, 0]
    assert torch.equal(parts.round(decimals=3).unique(), torch.tensor([0.0, 2.0]))
    assert parts.mean().item() == pytest.approx(1, abs=0.07)  # four standard errors


def test_every_parameter_is_of_one_layer():
    net = small()
    layers = net.layers()
    assert layers[0] == [net.stem]
    assert layers[2] == [net.stages[1].downsample, net.stages[1].blocks[0]]
    assert layers[-1] == [net.head]
    assert len(layers) == 5
    found = [weight for modules in layers for module in modules for weight in module.parameters()]
    assert {id(weight) for weight in found} == {id(weight) for weight in net.parameters()}
    assert len(found) == len(list(net.parameters()))


@pytest.mark.parametrize("kernel", ["7x7", "dcls"])
def test_compiles_and_copies(kernel):
    net = small(kernel=kernel, **KERNELS[kernel]).eval()
    image = torch.randn(2, 2, 16, 16)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    reference = copy.deepcopy(net).double()(image.double())
    assert_within_budget(compiled(image), net(image), reference)


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 3, 16, 16), (1, 2, 3, 16)])
def test_images_that_do_not_fit(shape):
    text = (
        r"ConvNeXt: got images of shape \(.*\), expected \(B, 2, H, W\) with H and W of at least 4; small images take"
    )
    with pytest.raises(ShapeError, match=text):
        small()(torch.zeros(shape))


def test_the_least_image():
    assert small()(torch.zeros(1, 2, 4, 4)).shape == (1, 5)


@pytest.mark.parametrize(
    "options", [{"num_classes": 0}, {"in_channels": 0}, {"patch": 0}, {"drop_path": 1.0}, {"drop_path": -0.1}]
)
def test_numbers_out_of_range(options):
    text = r"ConvNeXt: got num_classes=.*, in_channels=.*, patch=.*, drop_path=.*, expected at least 1"
    with pytest.raises(ShapeError, match=text):
        ConvNeXt(**{"num_classes": 2, "depths": (1,), "dims": (4,), **options})


@pytest.mark.parametrize(("depths", "dims"), [((), ()), ((1,), (4, 8)), ((1, 0), (4, 8)), ((1, 1), (4, 0))])
def test_stages_that_cannot_be(depths, dims):
    with pytest.raises(ShapeError, match=r"ConvNeXt: got depths=\(.*\) and dims=\(.*\), expected one of each"):
        ConvNeXt(2, 1, depths, dims)


def test_a_width_that_cannot_be():
    with pytest.raises(ShapeError, match=r"ConvNeXt: width: got 0, expected above 0"):
        convnext_pico(2, width=0)
