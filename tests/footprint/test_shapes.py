"""Pixels that move: reshapes that can be followed, and those that cannot."""

import pytest
import torch
import torch.nn.functional as F

from .networks import claims_and_truth


def blocks(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 3, 3).sum((3, 5))


def written(x):
    y = x.clone()
    y[:, :, 1:5:2] = 0.5 * x[:, :, :2]
    return y


PLACES, TRIANGLE = torch.tensor([4, 0, 3]), torch.ones(6, 6, dtype=torch.bool).tril()


def put_rows(x):
    y = x.clone()
    y[:, :, PLACES] += 2 * x[:, :, 1:4]
    return y


def put_elsewhere(x):
    y = torch.zeros_like(x)
    y[:, :, PLACES] = x[:, :, 1:4]
    return y


def put_one(x):
    y = torch.zeros_like(x)
    y[:, :, PLACES] = x[:, :, :1]
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
    "windows": lambda x: x.unfold(2, 3, 2).unfold(-2, 2, 1),
    "windows in patches": lambda x: x.unfold(3, 2, 2).unfold(2, 3, 3).sum((-2, -1)),
    "turned by a quarter": lambda x: x.rot90(1, (2, 3))[..., 1:],
    "turned by three": lambda x: x.rot90(-1, (-2, -1))[..., 1:],
    "turned by half": lambda x: x.rot90(2, (2, 3))[..., 1:],
    "turned in time": lambda x: x.rot90(4, (2, 3))[..., 1:],
    "repeated in more dims": lambda x: x.repeat(3, 1, 1, 2, 1),
    "tiled": lambda x: x.tile(2, 1, 1, 1, 2),
    "halves exchanged": lambda x: torch.fft.fftshift(x[..., 1:]),
    "halves exchanged back": lambda x: torch.fft.ifftshift(x[..., 1:], dim=3),
    "axes swapped": lambda x: x.swapaxes(1, 2).movedim((1, 3), (3, 1)),
    "numbers with two parts": lambda x: torch.view_as_real(torch.complex(x, x[..., :1])),
    "pairs of columns": lambda x: torch.view_as_complex(x.unflatten(3, (3, 2)).contiguous()).abs(),
    "rows written at places": put_rows,
    "rows written elsewhere": put_elsewhere,
    "one column written": put_one,
    "filled": lambda x: torch.ones(6, 6, dtype=torch.float64).masked_fill(TRIANGLE, x.sum((0, 1, 2, 3))),
    "blocks cut smaller": lambda x: torch.cat([x[..., 0].mT] * 2, 2).reshape(1, 12, 2),
    "blocks cut unevenly": lambda x: torch.cat([x[..., 0].mT] * 2, 2).reshape(1, 8, 3),
    "heads": lambda x: F.relu(x.view(-1, 2, 1, 6, 6)).flatten(1, 2),
}


@pytest.mark.parametrize("run", EXACT.values(), ids=EXACT)
def test_followed_exactly(run):
    for claimed, truth in claims_and_truth(run, (1, 2, 6, 6)):
        assert claimed == truth


COLUMN = PLACES[None, None, :, None]


def put_at_points(x):
    y = torch.zeros_like(x)
    y[:, :, PLACES, PLACES] = x[:, :, 1:4, 0]
    return y


AT_MOST = {
    "signs that agree": lambda x: ((x > 0) & (x[..., 2:3] > 0) | (x > 1) ^ (x[:, :, :1] < -1)) * x,
    "rows picked where the image says": lambda x: x.index_select(2, x[0, 0, 0].argsort()[:3]),
    "written over": written,
    "written at places in two axes": put_at_points,
    "written where a mask says": lambda x: torch.zeros_like(x).masked_scatter(TRIANGLE, x),
    "written over where a mask says": lambda x: x.masked_scatter(TRIANGLE, x.flip(2)),
    "gathered": lambda x: x.gather(2, COLUMN.expand(1, 2, 3, 6)),
    "gathered where the image says": lambda x: x.gather(2, x.argsort(2)[:, :, 1:4]),
    "scattered": lambda x: torch.zeros_like(x).scatter(2, COLUMN.expand(1, 2, 3, 6), x[:, :, :3]),
    "scattered over itself": lambda x: x.scatter_add(2, COLUMN.expand(1, 2, 3, 4), x),
    "added along a dim": lambda x: x.index_add(3, PLACES, 0.5 * x[..., 1:4]),
    "copied along a dim": lambda x: x.index_copy(3, PLACES, x[..., 1:4]),
    "the largest along a dim": lambda x: x.scatter_reduce(2, COLUMN.expand(1, 2, 3, 6), 2 * x, "amax"),
    "zeros along a dim": lambda x: x.index_fill(2, PLACES, 0.0),
    "mixed with channels": lambda x: x.reshape(1, 6, 2, 6),
    "rows in the batch": lambda x: x.movedim(2, 0).flatten(0, 1),
}


@pytest.mark.parametrize("run", AT_MOST.values(), ids=AT_MOST)
def test_never_less_than_is_read(run):
    for claimed, truth in claims_and_truth(run, (1, 2, 6, 6)):
        assert all(told >= read for told, read in zip(claimed, truth, strict=True))
