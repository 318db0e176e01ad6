"""What the packages of `make test-oracles` need before they are imported."""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Built for CUDA, beside a torch for CPUs, its compiled operators do not load; nothing here runs them.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
