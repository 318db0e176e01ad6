"""Train a network on a folder of images: segment, restore, regress or classify."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous train`, one for every setting of every task."""
    from atrous.train.config import RECIPES, Recipe

    parser.add_argument("--task", choices=[*RECIPES], help="what to train for, unless the settings' file says it")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="images; or textures, or fashion-mnist")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for weights, logs and metrics")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML or JSON; options come before it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.add_argument("--devices", default="auto", metavar="N", help="of this machine (default: auto)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: 1)")
    parser.add_argument("--strategy", default="auto", metavar="S", help="how they share the work, such as ddp")
    parser.add_argument("--accelerator", default="auto", metavar="A", help="what they are, such as cpu or gpu")
    seen: set[str] = set()
    shared = parser.add_argument_group("settings")
    for recipe in RECIPES.values():
        own = parser.add_argument_group(f"settings of {recipe.task}")
        for name, field in recipe.model_fields.items():
            if name not in seen:
                group = shared if name in Recipe.model_fields else own
                flag: dict[str, Any] = (
                    {"nargs": "?", "const": "true", "metavar": "true|false"}
                    if field.annotation in (bool, bool | None)
                    else {"metavar": "X"}
                )
                group.add_argument(f"--{name.replace('_', '-')}", help=_help(name, field.description), **flag)
                seen.add(name)


def _help(name: str, description: str | None) -> str:
    """Return what a setting is, with its defaults in every task that has it."""
    from atrous.train.config import RECIPES

    defaults: dict[str, list[str]] = {}
    choices: dict[str, None] = {}
    for task, recipe in RECIPES.items():
        if name in recipe.model_fields:
            annotation = recipe.model_fields[name].annotation
            if get_origin(annotation) is Literal:
                choices |= dict.fromkeys(map(str, get_args(annotation)))
            defaults.setdefault(str(recipe.model_fields[name].default).lower(), []).append(task)
    said = ", ".join(f"{value} ({', '.join(tasks)})" for value, tasks in defaults.items())
    words = f" ({', '.join(choices)})" if choices else ""
    return f"{description}{words}; default: {next(iter(defaults)) if len(defaults) == 1 else said}".replace("%", "%%")


def run(options: argparse.Namespace) -> None:
    """Train, and print the metrics."""
    from atrous.train import Hardware, read_recipe, train
    from atrous.train.config import RECIPES
    from atrous.train.run import RECIPE, first_process

    names = {name for recipe in RECIPES.values() for name in recipe.model_fields}
    given = {name: value for name, value in vars(options).items() if name in names}
    file = options.config
    if file is None and options.resume and (options.out / RECIPE).is_file():
        file = options.out / RECIPE
    recipe = read_recipe(options.task, file, **given)
    devices = int(options.devices) if options.devices.lstrip("-").isdigit() else options.devices
    hardware = Hardware(devices, options.nodes, options.strategy, options.accelerator)
    metrics = train(recipe, options.data, options.out, hardware=hardware, resume=options.resume)
    if not first_process():
        return
    if options.json:
        print(json.dumps(metrics))
        return
    for split, found in metrics.items():
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if isinstance(value, float))
        print(f"{split}: {numbers}")
    print(f"weights: {options.out / 'weights.safetensors'}")
