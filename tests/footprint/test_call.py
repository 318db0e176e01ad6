"""One call as a rule sees it."""

import pytest
import torch

from atrous import UnsupportedModule
from atrous.footprint.axis import IDENTITY
from atrous.footprint.call import HERE, Call
from atrous.footprint.graph import Node


def image(*shape):
    dims = tuple((index - 2,) if index > 1 else () for index in range(len(shape)))
    return Node("x", "input", "", shape, dims, shape[2:], ())


def call(shape, axes=2, name="some.op", **arguments):
    return Call(name, arguments, [shape], 0, axes, "block")


def test_broadcasting():
    one = call((1, 3, 4, 5), self=image(1, 3, 4, 5), other=image(1, 3, 1, 5))
    wide, thin = one.pointwise()
    assert one.dims == ((), (), (0,), (1,))
    assert wide.locals == (IDENTITY, IDENTITY)
    assert thin.locals == (HERE, IDENTITY)


def test_exchanged_axes_meet():
    turned = Node("t", "mT", "", (1, 3, 4, 4), ((), (), (1,), (0,)), (4, 4), ())
    one = call((1, 3, 4, 4), self=image(1, 3, 4, 4), other=turned)
    assert one.pointwise()[1].locals == (None, None)


def test_what_lies_elsewhere_is_read_as_a_whole():
    one = call((1, 3, 4, 4), self=image(1, 3, 4, 4), other=image(1, 3, 1, 4))
    wide, thin = one.sources
    assert one.broadcast(thin) == ((), (), (), (1,))
    turned = ((), (), (1,), (0,))
    first, second, third = one.joined(
        [(one.edge(wide, {}), wide.dims), (one.edge(wide, {}), turned), (one.edge(thin, {}), one.broadcast(thin))]
    )
    assert first.locals == (IDENTITY, IDENTITY)
    assert second.locals == one.whole(wide).locals == (None, None)
    assert third.locals == (HERE, IDENTITY)


def test_a_dim_that_is_summed_over_stays_whole():
    one = call((1, 3, 4, 4), self=image(1, 3, 4, 4))
    summed = one.edge(one.source("self"), {2: None})
    assert one.joined([(one.edge(one.source("self"), {}), image(1, 3, 4, 4).dims), (summed, ((),) * 4)])[1].locals == (
        None,
        HERE,
    )


def test_a_reduction_drops_or_keeps_its_dims():
    dropped, kept = call((1, 3, 5), self=image(1, 3, 4, 5)), call((1, 3, 1, 5), self=image(1, 3, 4, 5))
    assert dropped.reduced("self", [2])[0].locals == kept.reduced("self", [2])[0].locals == (None, IDENTITY)
    assert dropped.dims == ((), (), (1,))
    assert kept.dims == ((), (), (), (1,))


def test_arguments():
    one = call(
        (1, 1, 3, 3),
        name="max_pool2d.default",
        self=image(1, 1, 6, 6),
        kernel_size=[2],
        stride=3,
        parts=[image(1, 1, 2, 2)],
    )
    assert one.first == "self"
    assert one.pooled_axes == 2
    assert (one.per_axis("kernel_size", 2), one.per_axis("stride", 2)) == ([2, 2], [3, 3])
    assert len(one.sources) == 2
    assert one.tensors == [one["self"]]
    assert one.get("dilation") is None


def test_what_a_rule_needs_and_does_not_get():
    one = call((1, 1, 3, 3), self=torch.zeros(1), offsets=image(1, 1, 2, 2))
    with pytest.raises(UnsupportedModule, match=r"module 'block' calls some\.op with a fixed self, which has no rule"):
        one.source("self")
    with pytest.raises(UnsupportedModule, match=r"calls some\.op whose offsets are computed"):
        one.value("offsets")
