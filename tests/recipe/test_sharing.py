"""One parameter for several layers: what shares, what is saved, and what loads."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch

from atrous import GeometryError
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d
from atrous.recipe import param_groups, share_positions


def layer(width=4, cls=Dcls2d, size=5, **options):
    groups = {"groups": width} if cls is not Dcls2_1d else {}
    return cls(width, width, 3, padding="same", dilated_kernel_size=size, **groups, **options)


def stage(interpolation="gaussian"):
    """Return three blocks that share."""
    model = torch.nn.Sequential(*(layer(interpolation=interpolation) for _ in range(3)))
    assert share_positions(model) == (("0", "1", "2"),)
    return model


def shares(model):
    first, *others = model
    return all(other.P is first.P and other.SIG is first.SIG for other in others)


def other_values(model):
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


def test_a_stage_ends_where_the_layers_change():
    layers = {
        "a": layer(4),
        "b": torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), layer(4)),
        "wider": layer(8),
        "window": layer(8, size=7),
        "wide": layer(8, interpolation="gaussian"),
        "rows": layer(8, Dcls2_1d),
        "fine": layer(8, dtype=torch.float64),
        "again": layer(8),
        "last": layer(8),
    }
    model = torch.nn.ModuleDict(layers)
    assert share_positions(model) == (("a", "b.1"), ("again", "last"))
    assert model["b"][1].P is model["a"].P
    assert model["b"][1].weight is not model["a"].weight
    assert len({id(one.P) for one in model.modules() if hasattr(one, "P")}) == 7


def test_the_first_layer_gives_its_positions():
    model = torch.nn.Sequential(layer(), layer())
    first = model[0].P
    share_positions(model)
    assert model[1].P is model[0].P is first


def test_keys_of_names():
    model = torch.nn.Sequential(*(layer() for _ in range(5)))
    assert share_positions(model, lambda name: {"0": "x", "1": 0, "3": 0, "4": "x"}.get(name)) == (
        ("0", "4"),
        ("1", "3"),
    )
    assert model[0].P is model[4].P
    assert model[1].P is model[3].P
    assert len({id(one.P) for one in model}) == 3


def test_without_such_layers_nothing_is_shared():
    assert share_positions(torch.nn.Linear(2, 2)) == ()
    assert share_positions(layer()) == ()


def test_a_word_that_is_none():
    with pytest.raises(GeometryError, match=r"share_positions: by: got 'block', expected 'stage' or a function of a"):
        share_positions(stage(), "block")


def test_layers_of_one_key_that_differ_stay_as_they_are():
    model = torch.nn.Sequential(layer(4), layer(4), layer(4, size=7))
    message = (
        r"share_positions: 2: got Dcls2d bilinear, P \(2, 4, 1, 3\), window \(7, 7\), torch.float32 on cpu, expected "
        r"Dcls2d bilinear, P \(2, 4, 1, 3\), window \(5, 5\), .* as 0, which has the same key; give them different keys"
    )
    with pytest.raises(GeometryError, match=message):
        share_positions(model, lambda name: "all")
    assert model[1].P is not model[0].P


def test_ten_steps_move_one_parameter():
    model = torch.nn.Sequential(stage(), stage("bilinear"))
    before = [blocks[0].P.detach().clone() for blocks in model]
    optimizer = torch.optim.AdamW(param_groups(model, 1e-2, 0.05))
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(2, 4, 6, 6)).square().mean().backward()
        optimizer.step()
    for blocks, start in zip(model, before, strict=True):
        assert shares(blocks)
        assert not torch.equal(blocks[2].P, start)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert [name for name in saved if name.endswith(("P", "SIG"))] == ["0.0.P", "0.0.SIG", "1.0.P"]


def test_the_gradient_is_the_sum_over_the_layers():
    model = stage().double()
    alone = torch.nn.Sequential(*(copy.deepcopy(one) for one in model))
    assert not shares(alone)
    image = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    for one in (model, alone):
        one(image).square().sum().backward()
    torch.testing.assert_close(model[0].P.grad, sum(one.P.grad for one in alone))


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def doubled(model):
    return copy.deepcopy(model).double()


@pytest.mark.parametrize("made", [copy.deepcopy, by_pickle, by_torch, doubled])
def test_what_is_made_of_a_model_shares_and_saves_once(made):
    model = stage()
    other = made(model)
    assert shares(other)
    assert other[0].P is not model[0].P
    assert other.state_dict().keys() == model.state_dict().keys()
    state = other_values(other)
    assert other.load_state_dict(state).missing_keys == []
    assert torch.equal(other[2].P, state["0.P"])
    assert not torch.equal(model[2].P, other[2].P)


def test_16_bits_keep_it():
    model = stage().to(torch.bfloat16)
    assert shares(model)
    assert (model[2].P.dtype, model[2].weight.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("prefix", ["", "module.network."])
@pytest.mark.parametrize("assign", [False, True])
def test_loading_fills_in_and_keeps_it_shared(assign, prefix):
    model = stage()
    holder = torch.nn.ModuleDict({"module": torch.nn.ModuleDict({"network": model})}) if prefix else model
    state = other_values(holder)
    assert f"{prefix}1.P" not in state
    for _ in range(2):
        assert str(holder.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
    assert shares(model)
    assert torch.equal(model[2].P, state[f"{prefix}0.P"])
    assert torch.equal(model[1].SIG, state[f"{prefix}0.SIG"])
    assert model[1].P.requires_grad


def test_built_without_memory():
    state = other_values(stage())
    with torch.device("meta"):
        model = stage()
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state, assign=True)
    assert shares(model)
    assert torch.equal(model[2].P, state["0.P"])


def copies(state, **changed):
    """Return the state with P and SIG for all three layers."""
    names = {f"{number}.{name}": state[f"0.{name}"].clone() for number in (1, 2) for name in ("P", "SIG")}
    return {**state, **names, **{name.replace("_", "."): value for name, value in changed.items()}}


@pytest.mark.parametrize("assign", [False, True])
def test_a_file_with_equal_copies(assign):
    model = stage()
    state = copies(other_values(model))
    model.load_state_dict(state, assign=assign)
    assert shares(model)
    assert torch.equal(model[2].P, state["0.P"])


def test_copies_that_differ_are_refused():
    model = stage()
    state = other_values(model)
    with pytest.raises(RuntimeError, match=r"2\.P: got another value than 0\.P, expected an equal copy: share_positio"):
        model.load_state_dict(copies(state, **{"2_P": state["0.P"] + 1}))


def test_a_file_without_the_first_copy():
    model = stage()
    state = copies(other_values(model))
    del state["0.P"]
    assert model.load_state_dict(state, strict=False).missing_keys == ["0.P"]
    assert torch.equal(model[0].P, state["1.P"])


def test_what_is_missing_is_said():
    model = stage()
    state = other_values(model)
    del state["0.SIG"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0\.SIG", "1\.SIG", "2\.SIG"'):
        model.load_state_dict(state)


def test_a_block_alone_has_its_positions():
    model = stage()
    state = model[1].state_dict()
    assert state.keys() == {"weight", "P", "SIG", "bias"}
    state["P"] = torch.randn_like(state["P"])
    model[1].load_state_dict(state)
    assert torch.equal(model[0].P, state["P"])
    assert len(pickle.dumps(model[1])) < 0.75 * len(pickle.dumps(model))


def test_a_layer_that_shares_no_more_is_saved_again():
    model = stage()
    model[0].P = torch.nn.Parameter(torch.zeros_like(model[0].P))
    assert [name for name in model.state_dict() if name.endswith("P")] == ["0.P", "1.P"]
    state = other_values(model)
    model.load_state_dict(state)
    assert torch.equal(model[0].P, state["0.P"])
    assert torch.equal(model[2].P, state["1.P"])
    assert model[2].P is model[1].P


def test_a_layer_in_the_place_of_the_first():
    model = stage()
    model[0] = torch.nn.Identity()
    state = other_values(model)
    model.load_state_dict(state)
    assert torch.equal(model[2].P, state["1.P"])


def test_sharing_again_and_wider():
    model = torch.nn.Sequential(stage(), stage())
    assert share_positions(model, lambda name: "all") == (tuple(f"{i}.{j}" for i in range(2) for j in range(3)),)
    state = other_values(model)
    assert [name for name in state if name.endswith("P")] == ["0.0.P"]
    model.load_state_dict(state, assign=True)
    assert {id(one.P) for blocks in model for one in blocks} == {id(model[0][0].P)}


def test_compiled_and_exported():
    model = stage("bilinear").eval()
    image = torch.randn(1, 4, 6, 6)
    expected = model(image)
    exported = torch.export.export(model, (image,))
    torch.testing.assert_close(exported.module()(image), expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), expected)


def test_one_dimension():
    model = torch.nn.Sequential(layer(2, Dcls1d), layer(2, Dcls1d))
    assert share_positions(model) == (("0", "1"),)


def test_parameters_that_are_parts_of_one_vector_are_all_saved():
    model = torch.nn.Sequential(*(Dcls2d(n, n, 3, dilated_kernel_size=7, groups=n) for n in (4, 4, 8, 8)))
    share_positions(model)
    before = [*model.state_dict()]
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector, model.parameters())
    assert [*model.state_dict()] == before
    assert [name for name in before if name.endswith("P")] == ["0.P", "2.P"]


def test_a_load_keeps_nothing_of_what_was_there():
    model = torch.nn.Sequential(*(Dcls2d(4, 4, 3, dilated_kernel_size=7, groups=4) for _ in range(3)))
    share_positions(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    was = weakref.ref(model[0].P)
    model.load_state_dict(state, assign=True)
    gc.collect()
    assert was() is None
    assert model[0].P is model[2].P
