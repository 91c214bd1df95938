"""Lightning's trainer as all of the house's trainings want it: resumed to the bit, stopped by hand without loss, measured."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer
from torch.utils.data import DataLoader

from corpora.store.ranks import process_rank
from corpora.store.told import not_compiled
from corpora.training_config import Training
from jobs.progress import bar
from jobs.training.loggers import Pictures, logger_of
from jobs.training.logs import LoggerName
from jobs.training.processes import spread

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoints/last.ckpt"
CHECKPOINT_EVERY_S = 60.0
"""What a kill can cost; a validation's half where that is sooner."""
SETTLE_BATCHES = 5
"""The first batches start the loaders and warm the kernels; they would spoil the rate."""


@dataclass(frozen=True)
class Fitted:
    """What a training took, and what it came to on the held-out data."""

    steps: int
    minutes: float
    samples_per_s: float
    data_wait_share: float
    measured: dict[str, float]
    """Of the final weights, wherever the last validation in training fell; empty where nothing is held out."""


def fit(
    module: lightning.LightningModule,
    train: Callable[[int], DataLoader[Any]],
    validation: DataLoader[Any] | None,
    training: Training,
    folder: Path,
    *,
    rate: Callable[[int], float],
    unit: str = "samples",
    key: str,
    clip: float = 1.0,
    strategy: str = "auto",
    logger: LoggerName = "tensorboard",
    quiet: bool = False,
) -> Fitted:
    """Trains `module` for `training.steps` optimiser steps, or for as many as `training.minutes` allow, from the folder's
    checkpoint where there is one.

    train: the number of the first batch -> batches from there on, without end. rate: optimiser step -> the learning rate
    that `module` takes. unit, key: what a batch is counted in, and an entry of it that has one of them each. strategy: see
    `jobs.training.processes.spread`. logger: where its curves go, see `jobs.training.loggers`.

    Raises KeyboardInterrupt where it was stopped by hand, once the step is done and saved, and ValueError where the network
    cannot be compiled and is to be.
    """
    assert training.precision != "auto"  # `jobs.training.precision.settled` decides before the run is claimed
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    checkpoint = folder / CHECKPOINT
    resumed = checkpoint if checkpoint.is_file() else None
    done = 0
    if resumed is not None:
        state = torch.load(resumed, weights_only=True, map_location="cpu", mmap=True)
        done = int(state["global_step"]) * training.accumulate
        _tell_of_other_steps(state, training.steps, rate)
        del state
    if training.compile:
        for part in cast(Any, module).compiled:  # when each first runs; names of weights stay
            part.compile()
    timer = Timer(timedelta(minutes=training.minutes) if training.minutes else None)
    meter = Meter(training.steps, unit=unit, key=key, show=not quiet)
    with _ctrl_c_noted() as noted, _quiet_lightning(), logger_of(logger, folder) as told:
        keeper = StepCheckpoints(checkpoint, steps=max(1, training.val_every_steps // 2), stop=noted)
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            **spread(training.devices, strategy),
            precision=training.precision,  # type: ignore[arg-type]
            max_steps=training.steps,
            max_epochs=-1,
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=clip,
            val_check_interval=training.val_every_steps * training.accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=20,
            logger=told or False,
            callbacks=[timer, meter, keeper, *([] if told is None else [Pictures(told)])],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, train(done), validation, ckpt_path=resumed, weights_only=True)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # its import takes seconds

            if not isinstance(error, TorchDynamoException):
                raise
            raise ValueError(not_compiled("training.compile", error)) from error
        except (_Stopped, SystemExit):  # Lightning turns a KeyboardInterrupt into an exit with status 1
            log.warning("stopped at step %d of %d", trainer.global_step, training.steps)
            raise KeyboardInterrupt from None
        if trainer.global_step < training.steps:
            log.warning(
                "stopped by the minutes at step %d of %d, before the learning rate came down; for a schedule that ends "
                "there give --steps %d",
                trainer.global_step,
                training.steps,
                trainer.global_step,
            )
        measured: dict[str, float] = {}
        if validation is not None:
            measured = {name: float(v) for name, v in trainer.validate(module, validation, verbose=False)[0].items()}
    return Fitted(
        steps=trainer.global_step,
        minutes=round(timer.time_elapsed("train") / 60, 3),
        samples_per_s=round(meter.samples_per_s, 1),
        data_wait_share=round(meter.wait_share, 4),
        measured=measured,
    )


def _tell_of_other_steps(state: dict[str, Any], steps: int, rate: Callable[[int], float]) -> None:
    """Warns where a run goes on with other steps than before: the schedule spans them all, and the rate jumps."""
    done, last = int(state["global_step"]), float(state["optimizer_states"][0]["param_groups"][0]["lr"])
    if not done or process_rank():
        return
    if done > steps:
        log.warning(
            "the run has %d steps already, more than the %d that are asked for: it is not trained on", done, steps
        )
    elif done < steps and not math.isclose(last, rate(done - 1), rel_tol=1e-3):
        log.warning(
            "the run goes on from step %d with %d steps in all, which the schedule spans: the learning rate goes from %.2g to "
            "%.2g there, and comes down by the last step; for a schedule of its own begin another run from this one's model",
            done,
            steps,
            last,
            rate(done),
        )


class _Stopped(Exception):
    """Ctrl-C, after the checkpoint."""


class StepCheckpoints(Checkpoint):
    """Writes one checkpoint over and over, between two optimiser steps: every `steps` of them, every CHECKPOINT_EVERY_S
    seconds, and when `stop` is set, which ends the training.

    Lightning's ModelCheckpoint knows steps or seconds, not both, and its OnExceptionCheckpoint saves within a step, which
    cannot be resumed to the bit.
    """

    def __init__(self, path: Path, *, steps: int, stop: threading.Event) -> None:
        self._path, self._steps, self._stop = path, steps, stop
        self._saved_s = time.monotonic()
        self._step: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._saved_s, self._step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        stop = self._stop.is_set()
        due = self._step % self._steps == 0 or time.monotonic() - self._saved_s > CHECKPOINT_EVERY_S
        if trainer.world_size > 1:  # clocks differ, and so does when a signal comes; all save and stop at the same step
            due, stop = (trainer.strategy.reduce_boolean_decision(asked, all=False) for asked in (due, stop))
        if due or stop or trainer.should_stop or self._step == trainer.max_steps:
            trainer.save_checkpoint(self._path)
            self._saved_s = time.monotonic()
        if stop:
            raise _Stopped


class Meter(Callback):
    """Samples a second and the share of the time spent waiting for data; told where `show`. Lightning's RichProgressBar shows
    neither the wait nor, of endless batches, how much is left."""

    def __init__(self, steps: int, *, unit: str, key: str, show: bool) -> None:
        self._steps, self._unit, self._key = steps, unit, key
        self._wait_s = self._busy_s = self._start = 0.0
        self._samples = self._seen = 0
        self._end: float | None = None
        self._show, self._shown, self._update = show, ExitStack(), _nothing
        self._trainer: lightning.Trainer | None = None

    @property
    def samples_per_s(self) -> float:
        """On this device, waiting included, validation not."""
        return self._samples / max(self._wait_s + self._busy_s, 1e-9)

    @property
    def wait_share(self) -> float:
        return self._wait_s / max(self._wait_s + self._busy_s, 1e-9)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._trainer = trainer
        quiet = not (self._show and trainer.is_global_zero)
        self._update = self._shown.enter_context(bar("training", unit="steps", quiet=quiet, text=self._told))
        self._update(trainer.global_step, self._steps)

    def _told(self) -> str:
        """The loss is asked for here alone: a GPU would have to be waited for at every step."""
        metrics = {} if self._trainer is None else self._trainer.callback_metrics
        loss = float(metrics.get("train/loss", float("nan")))
        return f"loss {loss:.3f}, {self.samples_per_s:.0f} {self._unit}/s, {self.wait_share:.0%} waiting for data"

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.monotonic()
        if self._end is not None and self._seen > SETTLE_BATCHES:
            self._wait_s += self._start - self._end

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end = time.monotonic()
        self._seen += 1
        if self._seen > SETTLE_BATCHES:
            self._busy_s += self._end - self._start
            self._samples += len(batch[self._key] if self._key else batch)
        if self._seen % 20 == 0:
            pl_module.log(f"speed/{self._unit}_per_s", self.samples_per_s)
            pl_module.log("speed/data_wait_share", self.wait_share)
        self._update(trainer.global_step, self._steps)

    def on_validation_start(self, *_: Any) -> None:
        self._end = None

    def on_validation_end(self, *_: Any) -> None:
        self._end = None

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._shown.close()


def _nothing(*_: Any) -> None:
    """Before the first step there is nothing to tell."""


@contextmanager
def _ctrl_c_noted() -> Iterator[threading.Event]:
    """What is set by Ctrl-C; pressed again it interrupts at once."""
    noted = threading.Event()

    def note(*_: Any) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()

    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without what Lightning says of choices that were made here on purpose, and of its own use of torch."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.*deprecated.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*GPU available but not used.*",
            ".*in eval mode at the start of training.*",
            ".*Trying to infer the `batch_size`.*",
            ".*attribute of a Tensor that is not a leaf Tensor is being accessed.*",  # by torch.compile itself
            ".*have no `val_dataloader`.*",  # nothing is held out, which opening the data tells
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
