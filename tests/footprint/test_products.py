"""Products: what is summed over is read as a whole, and every other dim pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import trace_footprint

from .networks import Does, claims_and_truth, weight

SHAPE = (1, 2, 6, 4)
W4, W6 = weight(4, 4), weight(6, 6)
QUERY, KEY = weight(1, 2, 6, 3), weight(1, 2, 4, 3)
ATTENTION = nn.MultiheadAttention(2, 2, batch_first=True).double().eval()


def attention(x):
    return F.scaled_dot_product_attention(x, x, x)


def along_rows(x):
    return attention(x.permute(0, 2, 3, 1)[0])


def with_heads(x):
    y = x[0].permute(1, 2, 0)
    return ATTENTION(y, y, y, need_weights=False)[0]


def in_windows(x):
    """Attend inside windows of 3 x 2 pixels, cut out and put back as a shifted-window transformer does."""
    b, c, h, w = x.shape
    y = x.permute(0, 2, 3, 1).view(b, h // 3, 3, w // 2, 2, c).transpose(2, 3).reshape(-1, 6, c)
    y = attention(y.view(-1, 6, 1, c).transpose(1, 2)).transpose(1, 2)
    return y.reshape(b, h // 3, w // 2, 3, 2, c).transpose(2, 3).reshape(b, h, w, c)


def masked(x):
    # What is added to a whole row alike would change nothing.
    return F.scaled_dot_product_attention(QUERY, KEY, KEY, attn_mask=x * W4[0] / 1e5)


def shared_heads(x):
    """Attend along rows; the columns are heads, and two of the queries share one of the keys."""
    y = x.permute(0, 3, 2, 1)
    return F.scaled_dot_product_attention(y, y[:, ::2], y[:, ::2], enable_gqa=True)


EXACT = {
    "columns mixed": lambda x: x @ W4,
    "rows mixed": lambda x: W6 @ x,
    "rows and columns mixed": lambda x: W6 @ x @ W4,
    "a matrix and a vector": lambda x: x @ W4[0],
    "a vector and a matrix": lambda x: (W6[0] @ x).unsqueeze(-1),
    "mv": lambda x: torch.mv(x[0, 0], W4[0]).unsqueeze(-1),
    "dot": lambda x: torch.dot(x[0, 0, 2], W4[0]).reshape(1, 1),
    "mm": lambda x: torch.mm(x[0, 0], W4),
    "bmm": lambda x: torch.bmm(x[0].mT, x[0]),
    "addmm": lambda x: torch.addmm(x[0, 0, 2], x[0, 1], W4),
    "addmv": lambda x: torch.addmv(x[0, 0, :, 1], x[0, 1], W4[0]).unsqueeze(-1),
    "baddbmm": lambda x: torch.baddbmm(x[0], x[0], W4.expand(2, 4, 4)),
    "batches broadcast": lambda x: x.movedim(2, 0) @ x[:, 0, :4],
    "channels mixed by einsum": lambda x: torch.einsum("b c h w, d c -> b d h w", x, W4[:, :2]),
    "columns summed by einsum": lambda x: torch.einsum("...w,wv->...v", x, W4),
    "turned by einsum": lambda x: torch.einsum("...hw->...wh", x),
    "letters in their order": lambda x: torch.einsum("bcwh,wv", x, W6),
    "outer product": lambda x: torch.einsum("bch,bcw->bhw", x[..., 1], x[:, :, 2]),
    "attention along rows": along_rows,
    "attention with heads": with_heads,
    "attention in windows": in_windows,
    "a mask from the image": masked,
}


@pytest.mark.parametrize("run", EXACT.values(), ids=EXACT)
def test_read_exactly(run):
    for claimed, truth in claims_and_truth(run, SHAPE):
        assert claimed == truth


AT_MOST = {
    "a product with itself": lambda x: x.mT @ x,
    "its diagonal": lambda x: torch.einsum("bcii->bci", x[:, :, :4]),
    "heads that are shared": shared_heads,
    "a product with its turned self": lambda x: x[:, :, :4] @ x[:, :, :4].mT,
    "attention of all pixels": lambda x: attention(x.flatten(2).mT).mT.reshape(x.shape),
}


@pytest.mark.parametrize("run", AT_MOST.values(), ids=AT_MOST)
def test_never_less_than_is_read(run):
    for claimed, truth in claims_and_truth(run, SHAPE):
        assert all(told >= read for told, read in zip(claimed, truth, strict=True))


def test_windows_say_where_they_lie():
    fp = trace_footprint(Does(in_windows), torch.zeros(SHAPE))
    assert fp.reads(((0, 1), (2, 4)), clip=True) == ((0, 3), (2, 4))
    assert fp.globals == (False, False)
