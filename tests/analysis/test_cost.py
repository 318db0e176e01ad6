import json
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from atrous import ShapeError, UnsupportedModule, nn
from atrous.analysis.cost import cost


class Mixed(torch.nn.Module):
    """Functional calls, groups, a skip, a transposed convolution, a weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding="same", dilation=3, groups=8)
        self.up = torch.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.scale = torch.nn.Parameter(torch.ones(4, 4, 1, 1))
        self.drop = torch.nn.Dropout()

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = self.up(self.drop(x + self.depthwise(x)))
        return F.conv2d(F.conv2d(x, self.scale), self.scale)


class Attention(torch.nn.Module):
    """Attention as a module, as one function and as a sum of products."""

    def __init__(self):
        super().__init__()
        self.heads = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = x + self.heads(x, x, x)[0]
        x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        return torch.einsum("bnc,bmc->bnm", self.linear(x), x) @ x


NETWORKS = {
    "mixed": (Mixed, (2, 3, 16, 20)),
    "attention": (Attention, (2, 8, 4, 4)),
    "few channels": (lambda: torch.nn.Sequential(nn.Conv2d(1, 4, 3, padding=2, dilation=2)), (1, 1, 48, 48)),
    "signal": (lambda: torch.nn.Conv1d(2, 6, 5, stride=3, padding=4, dilation=2), (1, 2, 40)),
    "volume": (lambda: torch.nn.ConvTranspose3d(2, 3, 3, stride=2), (1, 2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_totals_are_those_of_a_run(name):
    build, shape = NETWORKS[name]
    model, image = build().eval(), torch.randn(shape)
    # With gradients: without them attention takes a fused operator that torch does not count.
    with FlopCounterMode(display=False) as counter:
        model(image)
    found = cost(model, image)
    assert found.macs > 0
    assert 2 * found.macs == counter.get_total_flops()
    assert found.parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("dilation", [1, 2, 12])
def test_a_stack_takes_pixels_times_taps_times_channels_squared(dilation):
    layers = [torch.nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation) for _ in range(3)]
    found = cost(torch.nn.Sequential(*layers), torch.zeros(1, 6, 20, 30))
    assert [layer.macs for layer in found.layers] == [20 * 30 * 9 * 6**2] * 3
    assert found.macs == 3 * 20 * 30 * 9 * 6**2


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (65, {1: 0.980, 6: 0.881, 12: 0.769, 18: 0.665, 24: 0.568, 36: 0.398, 48: 0.258, 64: 0.118, 65: 0.111}),
        (33, {6: 0.772, 12: 0.574, 18: 0.405, 24: 0.265, 36: 0.111}),
    ],
)
def test_large_dilations_degenerate_as_published(size, shares):
    for r, share in shares.items():
        found = cost(torch.nn.Conv2d(1, 1, 3, padding=r, dilation=r), torch.zeros(1, 1, size, size))
        assert found.padding == 1 - Fraction(size + 2 * max(0, size - r), 3 * size) ** 2
        assert round(float(1 - found.padding), 3) == share


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((11,), (3,), {"padding": 2, "dilation": 2, "stride": 2}),
        ((9, 14), (4, 3), {"padding": "same", "dilation": (3, 2)}),
        ((9, 14), (4, 3), {"padding": "valid"}),
        ((5, 6, 7), (3, 1, 2), {"padding": (2, 0, 1), "stride": (1, 2, 3)}),
    ],
)
# torch's own, of an even kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_the_share_is_counted_by_ones(shape, kernel, options):
    convolution = getattr(F, f"conv{len(shape)}d")
    ones = torch.ones(1, 1, *shape, dtype=torch.float64)
    counts = convolution(ones, torch.ones(1, 1, *kernel, dtype=torch.float64), **options)
    module = getattr(torch.nn, f"Conv{len(shape)}d")(1, 1, kernel, **options)
    total = counts.numel() * torch.Size(kernel).numel()
    assert cost(module, ones.float()).padding == 1 - Fraction(int(counts.sum()), total)


@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 3, "padding": 1}, {"dilation": 2, "padding": 3}])
def test_the_share_of_a_transposed_convolution_is_counted_by_ones(options):
    weight, wide = torch.ones(1, 1, 4, 4, dtype=torch.float64), 6
    ones = torch.ones(1, 1, 5, 7, dtype=torch.float64)
    inside = F.conv_transpose2d(ones, weight, **options)
    # The same outputs of an image with more ones all around: there no tap misses.
    margin = wide * options.get("stride", 1)
    everywhere = F.conv_transpose2d(F.pad(ones, [wide] * 4, value=1.0), weight, **options)
    everywhere = everywhere[..., margin : margin + inside.shape[2], margin : margin + inside.shape[3]]
    module = torch.nn.ConvTranspose2d(1, 1, 4, **options)
    assert cost(module, ones.float()).padding == 1 - Fraction(int(inside.sum()), int(everywhere.sum()))


def test_compiled_taps_have_the_share_of_the_convolution_that_they_are():
    image = torch.zeros(1, 1, 48, 48)
    compiled = cost(nn.Conv2d(1, 4, 3, padding=2, dilation=2), image)
    plain = cost(torch.nn.Conv2d(1, 4, 3, padding=2, dilation=2), image)
    assert compiled.padding == plain.padding
    assert compiled.macs == plain.macs


def test_reflected_pixels_are_no_padding():
    found = cost(torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), torch.zeros(1, 1, 8))
    assert [(layer.operator, layer.padding) for layer in found.layers] == [("pad", None), ("conv1d", 0)]


def test_the_total_share_is_weighted_by_multiply_accumulates():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv1d(4, 1, 1))
    found = cost(model, torch.zeros(1, 1, 10))
    assert found.padding == Fraction(2 * 4, 10 * 3 * 4 + 10 * 4)
    assert cost(torch.nn.ReLU(), torch.zeros(1, 1, 10)).padding is None


def test_bytes_are_those_of_inputs_weights_and_outputs_by_type():
    model, image = torch.nn.Conv1d(2, 3, 5), torch.zeros(1, 2, 14)
    count = 2 * 14 + 2 * 3 * 5 + 3 + 3 * 10
    assert cost(model, image).bytes == 4 * count
    assert cost(model.double(), image.double()).bytes == 8 * count
    assert cost(model, image.double()).intensity == 10 * 3 * 2 * 5 / (8 * count)


def test_a_shared_weight_is_counted_once():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = cost(model, torch.zeros(1, 1, 4))
    assert [layer.parameters for layer in found.layers] == [20, 4]


def test_views_and_dropout_in_evaluation_cost_nothing():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    found = cost(model, torch.zeros(1, 3, 4))
    assert [layer.name for layer in found.layers] == ["2.linear"]
    assert model.training


def test_prints_as_a_table_and_is_plain_for_json():
    found = cost(torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, padding=1), torch.nn.ReLU()), torch.zeros(1, 1, 8))
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "output", "MACs", "parameters", "bytes", "MACs/byte", "on", "padding"]
    assert lines[1].split() == ["0.conv1d", "1x1x8", "24", "4", "80", "0.3", "8.3%"]
    assert lines[2].split() == ["1.relu", "1x1x8", "0", "0", "64", "0.0", "-"]
    assert lines[3].split()[:2] == ["total", "24"]
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["total"] == {"macs": 24, "parameters": 4, "bytes": 144, "intensity": 24 / 144, "padding": 2 / 24}
    assert plain["layers"][1]["padding"] is None
    assert plain["layers"][0]["shape"] == [1, 1, 8]


def test_control_flow_on_values_is_named():
    class Branch(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModule, match="Branch cannot be exported"):
        cost(Branch(), torch.zeros(1, 1, 4))


def test_a_program_for_open_sizes_is_refused():
    height = torch.export.Dim("height", min=4, max=64)
    image = torch.zeros(1, 1, 16, 9)
    program = torch.export.export(torch.nn.Conv2d(1, 1, 3), (image,), dynamic_shapes=({2: height},))
    with pytest.raises(ShapeError, match=r"cost: got a program for open sizes \(1, 1, \w+, 9\), expected fixed ones"):
        cost(program)
