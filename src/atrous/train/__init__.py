"""Training and using the networks: data, loops, weights files, predictions (extra `train`)."""

from atrous._extras import need

need("train", "atrous.train")

from atrous.train.data import Textures, read_image, standardise  # noqa: E402
from atrous.train.demo import Settings, run_demo  # noqa: E402
from atrous.train.loop import History, evaluate, fit  # noqa: E402
from atrous.train.module import SegmentationModule  # noqa: E402
from atrous.train.predict import predict_files  # noqa: E402
from atrous.train.weights import NetworkConfig, load_network, save_network  # noqa: E402

__all__ = [
    "History",
    "NetworkConfig",
    "SegmentationModule",
    "Settings",
    "Textures",
    "evaluate",
    "fit",
    "load_network",
    "predict_files",
    "read_image",
    "run_demo",
    "save_network",
    "standardise",
]
