"""Who else follows a call."""

import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from atrous._watch import recorded, transformed, unwatched


def test_recorded():
    x, leaf = torch.zeros(1), torch.zeros(1, requires_grad=True)
    assert recorded(x, None, leaf)
    assert not recorded(x, None)
    with torch.no_grad():
        assert not recorded(leaf)
        with forward_ad.dual_level():
            assert recorded(x)


def test_transformed():
    seen = []
    torch.func.vmap(lambda x: seen.append(transformed()) or x)(torch.zeros(2))
    assert seen == [True]
    assert not transformed()


def test_unwatched_is_plain_eager_and_of_one_dtype():
    x = torch.zeros(2, 2)
    assert unwatched(x, x, None)
    assert unwatched(x, torch.nn.Parameter(x), x)
    assert not unwatched(x, x, x.double())
    assert not unwatched(x.long(), x.long(), None)
    assert not unwatched(x, x.to_sparse(), None)
    assert not unwatched(x.to("meta"), x.to("meta"), None)
    assert not unwatched(x.as_subclass(type("Tagged", (torch.Tensor,), {})), x, None)


def test_whoever_follows_is_noticed():
    x = torch.zeros(2)
    seen = []

    def look(x):
        seen.append(unwatched(x, x, None))
        return x

    with torch.autocast("cpu", torch.bfloat16):
        look(x)
    with FakeTensorMode():
        look(x)
    torch.func.vmap(look)(torch.zeros(2, 2))
    torch.jit.trace(look, (x,), check_trace=False)
    with forward_ad.dual_level():
        look(x)
    assert seen == [False] * 5


def test_under_a_compiler():
    compiled = torch.compile(lambda x: x + unwatched(x, x, None), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 0
