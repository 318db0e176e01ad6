"""What the engine says is what changing the input shows, for random networks, at every output and every border."""

from collections import Counter, OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

from atrous import ShapeError, UnsupportedModule, accelerate, models, trace_footprint
from atrous.footprint import products, rules, shapes, trace
from atrous.footprint.graph import ancestors, pixels_read

from .networks import LAYERS, bits, networks, truly_read

NETWORKS = 200


# What a random network of positive numbers cannot show: what reads everything, decides by values, or subtracts.
# The tests of their files show these, one by one.
NOT_SHOWN = {
    rules._unpooling, rules._layer_norm, rules._over_space, rules._over_channels_and_space, rules._fourier,
    rules._diff, rules._anywhere, products._attention, shapes._scatter, shapes._scattered, shapes._masked_scatter,
}  # fmt: skip


def undisturbed(node, axis, p):
    """Return whether nothing that output p reads lies outside of any tensor in between."""
    wanted = {id(node): {p}}
    for one in reversed(ancestors(node)):
        for edge in one.edges:
            local = edge.locals[axis]
            if local is None:
                return False
            places = {at for q in wanted.get(id(one), ()) for at in local.at(q)}
            if any(not 0 <= at < edge.source.sizes[axis] for at in places):
                return False
            wanted.setdefault(id(edge.source), set()).update(places)
    return True


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_random_networks_read_what_changes_them(monkeypatch):
    seen, hits, inside = Counter(), Counter(), 0

    def find(operator):
        hits[found := rules.find(operator)] += 1
        return found

    monkeypatch.setattr(trace, "find", find)

    @settings(max_examples=NETWORKS, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(networks())
    def check(drawn):
        nonlocal inside
        names, network, shape = drawn
        seen.update(names)
        fp = trace_footprint(network, torch.rand(shape, dtype=torch.float64))
        tables = [[bits(one) for one in pixels_read(fp.node, axis)] for axis in range(fp.ndim)]
        # Taps that always land beside the image along one axis read nothing along the others either.
        reads_nothing = not all(map(any, tables))
        for axis, table in enumerate(tables):
            truth = truly_read(network, shape, axis)
            assert truth == [set() if reads_nothing else pixels for pixels in table], (names, axis)
            for p, pixels in enumerate(table):
                ranges = [(0, size) for size in fp.output_size]
                ranges[axis] = p, p + 1
                span = (min(pixels), max(pixels) + 1) if pixels else (0, 0)
                assert fp.reads(ranges, clip=True)[axis] == span
                if pixels and undisturbed(fp.node, axis, p):
                    inside += 1
                    assert {min(pixels) + place for place in fp.taps(axis, p)} == pixels
                    assert fp.reads(ranges)[axis] == span

    check()
    assert min(seen[name] for name in LAYERS) >= 20, seen
    assert {one for one in [*rules.RULES.values(), rules._tap_conv] if hits[one] < 20} == NOT_SHOWN, hits
    assert inside > 500


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.Sequential(nn.Dropout()).eval())
    fp = trace_footprint(network, torch.zeros(2, 1, 9))
    assert fp.receptive_field == (3,)
    assert [module.training for module in network.modules()] == [True, True, True, False, False]


def test_an_exported_program_needs_no_example():
    program = torch.export.export(nn.Conv1d(1, 1, 3, dilation=2).eval(), (torch.zeros(1, 1, 9),))
    assert trace_footprint(program).receptive_field == (5,)


def test_accelerated_and_taps_read_the_same():
    network = models.dilation_small(3, 1).eval()
    plain = trace_footprint(network, torch.zeros(1, 1, 96, 96))
    fast = trace_footprint(accelerate(network).model, torch.zeros(1, 1, 96, 96))
    assert fast.to_dict() | {"name": ""} == plain.to_dict() | {"name": ""}
    assert fast.taps(0) == plain.taps(0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "got no example input, expected a tensor"),
        ((torch.zeros(1, 3),), r"got a first input of shape \(1, 3\), expected \(B, C, \*S\) with spatial axes"),
    ],
)
def test_inputs_that_have_no_axes(inputs, message):
    with pytest.raises(ShapeError, match=message):
        trace_footprint(nn.ReLU(), *inputs)


def test_control_flow_is_refused():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModule, match=r"Decides cannot be exported: .*; write its control flow without"):
        trace_footprint(Decides(), torch.zeros(1, 1, 5))


def test_both_branches_are_refused():
    class Decides(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, torch.relu, torch.sigmoid, (x,))

    message = r"module 'decides' calls cond, which is control flow and has no footprint; export the branch that runs"
    with pytest.raises(UnsupportedModule, match=message):
        trace_footprint(nn.Sequential(OrderedDict(decides=Decides())), torch.zeros(1, 1, 5))


def test_an_output_that_reads_nothing():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(3)

    with pytest.raises(ShapeError, match="no output depends on the first input"):
        trace_footprint(Constant(), torch.zeros(1, 1, 5))


def test_a_second_input_is_fixed():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x + y.flip(-1)

    fp = trace_footprint(Sum(), torch.zeros(1, 1, 5), torch.zeros(1, 1, 5))
    assert fp.receptive_field == (1,)


class Squared(nn.Module):
    def forward(self, x):
        return nn.functional.conv1d(x, x, padding=2)


def test_what_stands_in_two_places_is_read_by_both():
    fp = trace_footprint(Squared(), torch.rand(1, 2, 6))
    assert fp.reads([(0, 1)], clip=True) == ((0, 6),)
    assert not fp.is_local


def test_tensors_made_for_their_shape_read_nothing():
    class Sums(nn.Module):
        def forward(self, x):
            total = torch.zeros_like(x).flip(-1)
            return total + x + x.new_ones(x.shape)

    assert trace_footprint(Sums(), torch.zeros(1, 1, 5)).receptive_field == (1,)


def test_a_deep_network():
    network = nn.Sequential(*[nn.Conv1d(1, 1, 2) for _ in range(700)])
    assert trace_footprint(network, torch.zeros(1, 1, 800)).receptive_field == (701,)


@pytest.mark.parametrize("size", [(13, 12), (8, 9)])
def test_unpooling_is_the_pooling_turned_round(size):
    class Unpools(nn.Module):
        def forward(self, x):
            y, indices = nn.functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            return nn.functional.max_unpool2d(y, indices, 2, output_size=x.shape[2:])

    shape = (1, 2, *size)
    fp = trace_footprint(Unpools(), torch.rand(shape, dtype=torch.float64))
    for axis in (0, 1):
        assert [bits(one) for one in pixels_read(fp.node, axis)] == truly_read(Unpools(), shape, axis)


def test_a_function_is_no_module():
    with pytest.raises(UnsupportedModule, match=r"got function, expected a torch\.nn\.Module; wrap it"):
        trace_footprint(lambda x: x, torch.zeros(1, 1, 5))


def test_a_program_for_open_sizes_is_refused():
    image, height = torch.zeros(1, 1, 16, 9), torch.export.Dim("height", min=4, max=64)
    program = torch.export.export(nn.Conv2d(1, 1, 3), (image,), dynamic_shapes=({2: height},))
    with pytest.raises(ShapeError, match=r"got a program for open sizes .*, expected fixed ones; export it for one"):
        trace_footprint(program)


def test_what_torch_cannot_make_functional_is_named(monkeypatch):
    program = torch.export.export(nn.Conv1d(1, 1, 3), (torch.zeros(1, 1, 9),))

    def fails(self, table):
        raise AssertionError("expected a symbol\nand more")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", fails)
    with pytest.raises(UnsupportedModule, match="cannot be made functional: expected a symbol; give the module itself"):
        trace_footprint(program)
