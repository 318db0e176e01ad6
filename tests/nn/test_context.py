import copy
import pickle

import pytest
import torch

from atrous import GeometryError, ShapeError
from atrous.nn import ContextModule

EVERY = [(c, n, p) for c in ("basic", "large") for n in (7, 8, 10) for p in ("once", "same")]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    assert parameters(ContextModule(21)) == 28_392
    assert parameters(ContextModule(21, "large")) == 6_803_139
    assert parameters(ContextModule(21, dilated=False)) == 28_392


def test_published_names_and_widths():
    module = ContextModule(21, "large")
    names = [*(f"ctx_conv{layer}" for layer in ("1_1", "1_2", "2_1", "3_1", "4_1", "5_1")), "ctx_fc1", "ctx_final"]
    assert [name for name, _ in module.named_parameters() if name.endswith("weight")] == [f"{n}.weight" for n in names]
    assert [module.get_submodule(n).out_channels for n in names] == [42, 42, 84, 168, 336, 672, 672, 21]


@pytest.mark.parametrize(("layers", "field"), [(7, 35), (8, 67), (10, 259)])
def test_published_receptive_fields(layers, field):
    assert ContextModule(2, layers=layers).geometry.kernel == (field, field)
    assert ContextModule(2, layers=layers, dilated=False).geometry.kernel == (2 * (layers - 1) + 1,) * 2


@pytest.mark.parametrize(("channels", "layers", "padding"), EVERY)
def test_identity(channels, layers, padding):
    module = ContextModule(2, channels, layers, padding, std=0.0).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.relu())


def test_the_two_paddings_differ_only_near_the_border():
    once, same = ContextModule(2, layers=7, padding="once", std=0.1), ContextModule(2, layers=7, padding="same")
    same.load_state_dict(once.state_dict())
    with torch.no_grad():
        for p in (*once.parameters(), *same.parameters()):
            if p.ndim == 1:
                p.fill_(0.1)
    x = torch.randn(1, 2, 41, 41)
    difference = (once(x) - same(x)).abs().amax((0, 1))
    assert difference[17:-17, 17:-17].max() < 1e-6 < difference.max()


def test_initialisation_options():
    default, identity = ContextModule(3, init="default"), ContextModule(3)
    centre = default.ctx_conv1_1.weight[:, :, 1, 1]
    assert (centre - torch.eye(3)).abs().max() > 0.1
    noise = identity.ctx_conv1_1.weight.detach().clone()
    noise[:, :, 1, 1] -= torch.eye(3)
    assert 0.004 < noise.std() < 0.02
    identity.reset_parameters(std=0.0)
    assert torch.equal(identity.ctx_fc1.weight[:, :, 1, 1], torch.eye(3))


@pytest.mark.parametrize(("channels", "padding"), [("basic", "once"), ("large", "same")])
def test_life_of_a_module(channels, padding):
    module = ContextModule(2, channels, 7, padding)
    x = torch.randn(2, 2, 12, 13)
    expected = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(module, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    bigger = torch.randn(3, 2, 20, 17)
    torch.testing.assert_close(program.module()(bigger), module(bigger))


@pytest.mark.parametrize(
    "option", [{"channels": "huge"}, {"layers": 9}, {"padding": "valid"}, {"init": "zero"}], ids=str
)
def test_messages(option):
    name, value = next(iter(option.items()))
    with pytest.raises(GeometryError, match=rf"ContextModule: {name}: got {value!r}, expected one of"):
        ContextModule(3, **option)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ContextModule(3, std=-1), GeometryError, "std: got -1"),
        (lambda: ContextModule(3, std=float("nan")), GeometryError, "std: got nan"),
        (lambda: ContextModule(3).reset_parameters("foo"), GeometryError, "init: got 'foo'"),
        (
            lambda: ContextModule(3)(torch.zeros(1, 4, 8, 8)),
            ShapeError,
            r"got scores of shape .* expected \(B, 3, H, W\)",
        ),
        (lambda: ContextModule(3)(torch.zeros(3, 8, 8)), ShapeError, "got scores of shape"),
    ],
)
def test_more_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_classes():
    with pytest.raises(ShapeError, match="num_classes: got 0, expected at least 1"):
        ContextModule(0)
