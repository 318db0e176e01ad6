import copy

import pytest
import torch

from atrous import ShapeError
from atrous.models import ConvNeXt, convnext_base, convnext_pico, convnext_small, convnext_tiny
from atrous.testing import assert_within_budget


def small(**options):
    return ConvNeXt(5, 2, (1, 2), (8, 12), patch=2, **options)


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (convnext_pico, 9_045_672),
        (convnext_tiny, 28_589_128),
        (convnext_small, 50_223_688),
        (convnext_base, 88_591_464),
    ],
)
def test_the_published_numbers_of_parameters(build, parameters):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in build(1000).parameters()) == parameters


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


def test_initial_weights():
    net = convnext_pico(10, width=0.5)
    for name, weight in net.state_dict().items():
        if name.endswith("bias"):
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


def test_compiles_and_copies():
    net = small().eval()
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
