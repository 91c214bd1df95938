"""Where a training's curves and pictures go: files of TensorBoard, Weights & Biases, or nowhere."""

from __future__ import annotations

import os
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray

from corpora.store.files import write_text
from jobs.training.logs import LoggerName

STEP = "step"


class RunLogger(Logger):
    """What all of ours can do."""

    @abstractmethod
    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """`image` [H, W, 3], RGB; of the first process alone."""

    def close(self) -> None:
        """Nothing is logged after it."""


class TensorBoard(TensorBoardLogger, RunLogger):
    """Files in FOLDER/tensorboard. Without hparams.yaml, which would be empty: a run's settings lie beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="tensorboard", version="")

    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        self.experiment.add_image(name, image, step, dataformats="HWC")


class Wandb(RunLogger):
    """A run of Weights & Biases in project $WANDB_PROJECT or "giza", called as the folder; a training that is resumed goes on in
    the same run. Lightning's own logger imports parts of wandb that its versions move."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """wandb's run, begun when it is first asked for."""
        if self._run is None:
            import wandb

            told = self._folder / "wandb.id"
            if not told.is_file():
                self._folder.mkdir(parents=True, exist_ok=True)
                write_text(told, secrets.token_hex(8))
            self._run = wandb.init(
                project=None if "WANDB_PROJECT" in os.environ else "giza",
                name=self._folder.name,
                dir=str(self._folder),
                id=told.read_text("utf-8"),
                resume="allow",
            )
            self._run.define_metric(STEP)
            self._run.define_metric("*", step_metric=STEP)
        return self._run

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """A run's settings lie beside it."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log({**metrics, STEP: step})

    @rank_zero_only
    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        import wandb

        self.experiment.log({name: wandb.Image(image), STEP: step})

    @rank_zero_only
    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


LOGGERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""Those that log at all; one of your own is a class here, by the name that --logger gives it."""


@contextmanager
def logger_of(name: LoggerName, folder: Path) -> Iterator[RunLogger | None]:
    """The logger of a training in `folder`; None for none."""
    logger = LOGGERS[name](folder) if name in LOGGERS else None
    try:
        yield logger
    finally:
        if logger is not None:
            logger.close()


class Pictures(Callback):
    """After each validation, what a module's `pictures()` gives, [H, W, 3] each by name, to the logger."""

    def __init__(self, logger: RunLogger) -> None:
        self._logger = logger

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        for name, image in getattr(pl_module, "pictures", dict)().items():
            self._logger.picture(name, image, trainer.global_step)
