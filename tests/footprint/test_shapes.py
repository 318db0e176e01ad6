"""Pixels that move: reshapes that can be followed, and those that cannot."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import trace_footprint
from atrous.footprint.graph import pixels_read

from .networks import truly_read


class Does(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.forward = run


def blocks(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 3, 3).sum((3, 5))


def written(x):
    y = x.clone()
    y[:, :, 1:5:2] = 0.5 * x[:, :, :2]
    return y


EXACT = {
    "cut into blocks": blocks,
    "tokens and back": lambda x: F.relu(x.flatten(2)).view(x.shape),
    "axes exchanged": lambda x: x.mT[:, :, ::2],
    "one row": lambda x: x[:, :, 2],
    "one row for all": lambda x: x + x[:, :, 2:3],
    "pieces": lambda x: x.split([1, 4, 1], 2)[1] + x.chunk(3, 2)[0].repeat(1, 1, 2, 1),
    "repeated": lambda x: x.repeat(1, 1, 2, 1),
    "joined with one column": lambda x: torch.cat([x, x[..., 3:4].expand(-1, -1, -1, 6)], 1),
    "stacked on one row": lambda x: torch.stack([x[:, :, 3:4].expand(-1, -1, 6, -1), x], 1).sum(1),
    "columns picked": lambda x: x[..., torch.tensor([0, 5, 5, 2])],
    "rows picked": lambda x: x.index_select(2, torch.tensor([4, 1])),
    "each twice": lambda x: x.repeat_interleave(2, 2),
    "unbound": lambda x: x.unbind(3)[1],
    "squeezed": lambda x: x.unsqueeze(2).squeeze(2),
    "heads": lambda x: F.relu(x.view(-1, 2, 1, 6, 6)).flatten(1, 2),
}


@pytest.mark.parametrize("run", EXACT.values(), ids=EXACT)
def test_followed_exactly(run):
    shape = (1, 2, 6, 6)
    network = Does(run)
    fp = trace_footprint(network, torch.rand(shape, dtype=torch.float64))
    for axis in (0, 1):
        table = [{i for i in range(6) if pixels >> i & 1} for pixels in pixels_read(fp.node, axis)]
        if fp.output_size[axis] == 1 and len(fp.node.shape) < 4:
            assert table == [set().union(*truly_read_input(network, shape, axis))]
        else:
            assert table == truly_read(network, shape, axis, fp.node.dims.index((axis,)))


def truly_read_input(network, shape, axis):
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(network(x).sum(), x)
    seen = grad.movedim(2 + axis, 0).flatten(1).abs().sum(1)
    return [{index for index, one in enumerate(seen.tolist()) if one}]


AT_MOST = {
    "written over": written,
    "mixed with channels": lambda x: x.reshape(1, 6, 2, 6),
    "rows in the batch": lambda x: x.movedim(2, 0).flatten(0, 1),
}


@pytest.mark.parametrize("run", AT_MOST.values(), ids=AT_MOST)
def test_never_less_than_is_read(run):
    shape = (1, 2, 6, 6)
    network = Does(run)
    fp = trace_footprint(network, torch.rand(shape, dtype=torch.float64))
    for axis, (start, stop) in enumerate(fp.reads(clip=True)):
        seen = set().union(*truly_read_input(network, shape, axis))
        assert start <= min(seen)
        assert stop > max(seen)
