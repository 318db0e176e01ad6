import pytest

from atrous.nn.dcls import _Dcls
from atrous.train.data.patches import TexturePatches
from atrous.train.data.source import Splits
from atrous.train.kernels import KERNELS, Budget, build, size

PATCHES = Splits(TexturePatches("train", 8), TexturePatches("val", 8))


@pytest.mark.parametrize("kernel", [*KERNELS])
def test_networks_of_learned_spacings_cost_no_more_parameters(kernel):
    budget = Budget()
    plain, network = size(build("plain", PATCHES, budget)), build(kernel, PATCHES, budget)
    if kernel in ("plain", "dilated2", "dilated3"):
        assert size(network) == plain
    elif kernel == "dense17":
        assert size(network) == plain + 2 * (17**2 - 7**2) * sum(budget.dims)
    else:
        layer = next(module for module in network.modules() if isinstance(module, _Dcls))
        shared = 1 if KERNELS[kernel].network.get("share", True) else 2
        each = sum(budget.dims) * (2 + 2 * shared * (1 if layer.SIG is None else 2))
        assert plain - each < size(network) <= plain
