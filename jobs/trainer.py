"""Lightning's trainer as all of the house's trainings want it: one checkpoint, TensorBoard, our own progress bar."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from jobs.training_progress import TrainingProgress


class Schedule(Protocol):
    """What the trainer must know of a training's configuration."""

    @property
    def steps(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def devices(self) -> int: ...
    @property
    def val_every_steps(self) -> int: ...


def make_trainer(
    training: Schedule, out: Path, meter: TrainingProgress, *, clip: float = 1.0, strategy: str = "auto"
) -> lightning.Trainer:
    """Checkpoints to `out`/checkpoints twice between validations; `strategy` auto is DDP on several devices."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    keeper = ModelCheckpoint(
        dirpath=out / "checkpoints",
        save_last=True,
        save_top_k=0,
        every_n_train_steps=max(1, training.val_every_steps // 2),
    )
    return lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=training.devices,
        strategy="ddp" if strategy == "auto" and training.devices > 1 else strategy,
        precision=training.precision,  # type: ignore[arg-type]
        max_steps=training.steps or -1,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=clip,
        val_check_interval=training.val_every_steps * training.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=TensorBoardLogger(str(out), name="tensorboard", version=""),
        callbacks=[keeper, meter],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def process_rank() -> int:
    """Of this process among those that train together, also before the trainer has gathered them."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without what Lightning says of choices that were made here on purpose, and of its own use of torch."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.*deprecated.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*GPU available but not used.*",
            ".*in eval mode at the start of training.*",
            ".*Trying to infer the `batch_size`.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
