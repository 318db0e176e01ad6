"""How far elements move: speeds, the way and its ends, histograms over time, and the learning rates beside them."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from atrous import GeometryError, ShapeError, UnsupportedModule
from atrous.analysis.movement import Snapshot, movement, snapshot
from atrous.analysis.positions import positions
from atrous.nn import Dcls1d, Dcls2d, Dcls3d


def moved(layer, *axes):
    """Move the positions of a layer to the values of each axis, and return a snapshot of it."""
    with torch.no_grad():
        layer.P.copy_(torch.tensor(axes).reshape(layer.P.shape))
    return snapshot(layer)


def trail(places):
    """Return snapshots of one element of a line that goes from place to place."""
    layer = Dcls1d(1, 1, 1, dilated_kernel_size=21)
    return [moved(layer, [float(place)]) for place in places]


def test_speed_is_the_mean_euclidean_distance():
    layer = Dcls2d(1, 1, 2, dilated_kernel_size=(9, 11))
    found = [moved(layer, [0.0, 1.0], [0.0, -1.0]), moved(layer, [3.0, 1.0], [4.0, 0.0])]
    (result,) = movement(found).layers
    assert result.speeds == pytest.approx([(5 + 1) / 2])
    assert result.window == (9, 11)


def test_the_way_is_longer_than_the_distance_of_its_ends():
    (result,) = movement(trail([0, 3, 1, 2])).layers
    assert (result.speeds, result.path, result.net) == ((3, 2, 1), 6, 2)


def test_histograms_are_those_of_each_snapshot():
    layer = Dcls3d(2, 3, 4, dilated_kernel_size=(3, 5, 8))
    found = []
    for _ in range(3):
        nn.init.normal_(layer.P, 0, 3)
        found.append((snapshot(layer), positions(layer).layers[0].histograms))
    (result,) = movement([one for one, _ in found]).layers
    assert [counts.shape for counts in result.histograms] == [(3, 3), (3, 5), (3, 8)]
    for axis, counts in enumerate(result.histograms):
        assert counts.tolist() == [list(expected[axis]) for _, expected in found]


def test_what_moves_beyond_the_window_stands_still():
    layer = Dcls1d(1, 1, 2, dilated_kernel_size=6)
    found = [moved(layer, [-3.0, 2.0]), moved(layer, [-9.0, 100.0])]
    assert found[1].places[0].tolist() == [[-3, 2]]
    assert movement(found).layers[0].net == 0


def test_an_axis_of_one_pixel_does_not_count():
    layer = Dcls2d(1, 1, 1, dilated_kernel_size=(1, 9))
    found = [moved(layer, [0.0], [0.0]), moved(layer, [40.0], [1.0])]
    assert movement(found).layers[0].speeds == (1,)


def test_layers_that_share_positions_are_read_once():
    first, second, third = (Dcls2d(4, 4, 3, dilated_kernel_size=7, groups=4) for _ in range(3))
    second.P = first.P
    net = nn.ModuleDict({"a": first, "b": second, "c": third})
    found = snapshot(net)
    assert [places.shape for places in found.places] == [(2, 12), (2, 12)]
    np.testing.assert_array_equal(found.places[1], third.P.detach().flatten(1).numpy())
    assert [layer.title for layer in movement([found, snapshot(net)]).layers] == ["a (shared by 2)", "c"]


def test_training_does_not_change_a_snapshot():
    layer = Dcls1d(1, 1, 1, dilated_kernel_size=9)
    before = moved(layer, [1.0])
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    layer.P.sum().backward()
    optimizer.step()
    assert before.places[0].tolist() == [[1]]
    assert movement([before, snapshot(layer)]).layers[0].speeds == (0.5,)


def test_the_correlation_follows_the_learning_rate():
    found = trail([0, 4, 6, 7, 7.5])
    assert movement(found, [0.8, 0.4, 0.2, 0.1]).layers[0].correlation == pytest.approx(1)
    assert movement(found, [0.1, 0.2, 0.4, 0.8]).layers[0].correlation == pytest.approx(
        np.corrcoef([4, 2, 1, 0.5], [0.1, 0.2, 0.4, 0.8])[0, 1]
    )


@pytest.mark.parametrize(
    ("places", "rates"),
    [
        ([0, 1, 3], None),
        ([0, 1, 3], [0.1, 0.1]),
        ([0, 1, 2], [0.1, 0.2]),
        ([0, 1], [0.1]),
        ([0, 1, 3], [1e-200, 2e-200]),
    ],
)
def test_what_is_constant_has_no_correlation(places, rates):
    assert movement(trail(places), rates).layers[0].correlation is None


def test_it_prints_as_a_table():
    found = trail([0, 2, 3, 3.5])
    assert str(movement(found)).splitlines() == [
        "layer        window  first  fastest  last  path   net",
        "(the layer)      21   2.00     2.00  0.50  3.50  3.50",
    ]
    rows = str(movement(found, [3e-1, 2e-1, 1e-1])).splitlines()
    assert [row.split()[-1] for row in rows] == ["rate", "0.98"]
    assert str(movement(found, [1, 1, 1])).splitlines()[1].split()[-1] == "-"


def test_it_is_plain_data():
    result = json.loads(json.dumps(movement(trail([0, 2, 3]), [0.2, 0.1]).to_dict()))
    assert result["learning_rates"] == [0.2, 0.1]
    (layer,) = result["layers"]
    assert (layer["speeds"], layer["path"], layer["net"], layer["correlation"]) == ([2, 1], 3, 3, 1)
    assert np.argwhere(layer["histograms"][0]).tolist() == [[0, 10], [1, 12], [2, 13]]


def test_a_snapshot_reads_prints_and_pickles_as_positions_do():
    layer = Dcls1d(1, 1, 2, dilated_kernel_size=5)
    found = moved(layer, [-1.0, 0.5])
    assert str(found) == str(positions(layer))
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["places"] == [[-1, 0.5]]
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy, Snapshot)
    assert movement([found, copy]).layers[0].speeds == (0,)


def test_one_snapshot_is_no_movement():
    with pytest.raises(ShapeError, match="movement: snapshots: got 1, expected at least 2; take one before training"):
        movement(trail([0]))


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(Dcls1d(1, 1, 2, dilated_kernel_size=5)),
        Dcls1d(1, 1, 2, dilated_kernel_size=7),
        Dcls1d(1, 1, 3, dilated_kernel_size=5),
    ],
    ids=["name", "window", "elements"],
)
def test_other_layers_are_refused(other):
    one = snapshot(Dcls1d(1, 1, 2, dilated_kernel_size=5))
    message = r"movement: snapshots: the layers of snapshot 2 are not those of snapshot 0 \(names, windows or numbers"
    with pytest.raises(ShapeError, match=message):
        movement([one, one, snapshot(other)])


def test_a_learning_rate_for_each_interval():
    with pytest.raises(
        ShapeError, match="movement: learning_rates: got 3 for 3 snapshots, expected 2; give one for each interval"
    ):
        movement(trail([0, 1, 2]), [0.1, 0.1, 0.1])


def test_what_positions_refuses_is_refused():
    with pytest.raises(UnsupportedModule, match="got ReLU without a layer of learned spacings"):
        snapshot(nn.ReLU())
    with pytest.raises(GeometryError, match="got 1 positions of layer '' that are no finite number"):
        moved(Dcls1d(1, 1, 1, dilated_kernel_size=5), [float("nan")])
