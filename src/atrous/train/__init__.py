"""Training and using the networks: data, loops, weights files, predictions (extra `train`)."""

from atrous._extras import need

need("train", "atrous.train")

from atrous.train.build import describe, make_task, open_data  # noqa: E402
from atrous.train.config import (  # noqa: E402
    ClassifyRecipe,
    Recipe,
    RegressRecipe,
    RestoreRecipe,
    SegmentRecipe,
    read_recipe,
)
from atrous.train.data import (  # noqa: E402
    Batched,
    Source,
    Splits,
    TexturePatches,
    Textures,
    open_folder,
    read_image,
    standardise,
)
from atrous.train.demo import Settings, run_demo  # noqa: E402
from atrous.train.experiment import run_experiment  # noqa: E402
from atrous.train.kernels import Budget  # noqa: E402
from atrous.train.loop import Hardware, History, evaluate, fit  # noqa: E402
from atrous.train.predict import predict_files  # noqa: E402
from atrous.train.run import judge, train  # noqa: E402
from atrous.train.tasks import Classify, Regress, Restore, Segment, Task  # noqa: E402
from atrous.train.weights import NetworkConfig, load_network, save_network  # noqa: E402

__all__ = [
    "Batched",
    "Budget",
    "Classify",
    "ClassifyRecipe",
    "Hardware",
    "History",
    "NetworkConfig",
    "Recipe",
    "Regress",
    "RegressRecipe",
    "Restore",
    "RestoreRecipe",
    "Segment",
    "SegmentRecipe",
    "Settings",
    "Source",
    "Splits",
    "Task",
    "TexturePatches",
    "Textures",
    "describe",
    "evaluate",
    "fit",
    "judge",
    "load_network",
    "make_task",
    "open_data",
    "open_folder",
    "predict_files",
    "read_image",
    "read_recipe",
    "run_demo",
    "run_experiment",
    "save_network",
    "standardise",
    "train",
]
