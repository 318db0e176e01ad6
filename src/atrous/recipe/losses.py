"""Terms of a loss that concern positions.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, k extents of a dense window.
"""

from __future__ import annotations

import torch

from atrous._errors import UnsupportedModule
from atrous.recipe.positions import _layers


def repulsive_loss(model: torch.nn.Module) -> torch.Tensor:
    """Return how much the elements of a kernel overlap: 1 if all lie on one spot, 0 if all are a pixel apart.

    Over the pairs a < b of elements of one pair of channels (and one pixel of a dense window), at positions p:

        mean of max(0, 1 - |p_a - p_b|)

    Then the mean over these, and over the parameters `P` of the model, each once however many layers share it. A `P`
    with one element counts 0. The papers add the square to the loss, after epoch 20.

    The gradient between elements on exactly one spot is 0, which no direction would part; they stay together unless
    something else moves them. `reset_positions` parts them.

    Args:
        model: any module with a layer of learned spacings.

    Returns:
        A scalar, differentiable in the positions.

    Raises:
        UnsupportedModule: a model without such a layer.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(1, 1, 3, dilated_kernel_size=5)
        >>> layer.P.data = torch.tensor([[[[0.0, 0.3, 2.0]]], [[[0.0, 0.4, 2.0]]]])
        >>> round(repulsive_loss(layer).item(), 4)  # one pair of three, half a pixel apart
        0.1667
    """
    distinct = list(dict.fromkeys(layer.P for layer in _layers(model)))
    if not distinct:
        raise UnsupportedModule(
            f"repulsive_loss: got {type(model).__name__} without a layer of learned spacings, expected at least one; "
            "use atrous.nn.Dcls1d, Dcls2d, Dcls3d, Dcls2_1d, Dcls3_1d or Dcls3_2d"
        )
    return torch.stack([_overlap(positions) for positions in distinct]).mean()


def _overlap(positions: torch.Tensor) -> torch.Tensor:
    count = positions.shape[-1]
    one, other = torch.triu_indices(count, count, 1, device=positions.device)
    squares = (positions.index_select(-1, one) - positions.index_select(-1, other)).square().sum(0)
    # The least number, so that at distance 0 the derivative is 0 and not nan.
    distance = (squares + torch.finfo(squares.dtype).tiny).sqrt()
    # A sum, since one element has no pair to take a mean of.
    return (1 - distance).relu().sum() / max(1, distance.numel())
