"""Where a training's curves may go; imports no torch."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

from corpora.store.told import closest

LoggerName = Literal["tensorboard", "wandb", "none"]


def check_logger(name: str) -> None:
    """Raises ValueError for an unknown one, and for one whose package is not installed."""
    if name not in get_args(LoggerName):
        raise ValueError(f"--logger '{name}': {closest(name, get_args(LoggerName))}")
    if name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "--logger wandb: the package is not installed; pip install wandb, or take --logger tensorboard"
        )
