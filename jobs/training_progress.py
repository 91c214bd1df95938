"""The progress bar of a training: share of the budget, samples per second, and the share of time spent waiting for data."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SETTLE_BATCHES = 5
"""The first batches start the loaders and warm the kernels; they would spoil the rate."""


class TrainingProgress(Callback):
    """Measures always, draws where `show`; a run without a terminal prints a line every minute.

    `unit`: what a batch is counted in; `key`: the entry of a batch that has one of them each.
    """

    def __init__(self, *, show: bool, unit: str = "pairs", key: str = "clip") -> None:
        self.show = show
        self.unit, self.key = unit, key
        self.wait_s = self.busy_s = 0.0
        self.samples = 0
        self._seen = 0
        self._end: float | None = None
        self._start = 0.0
        self._line_s = 0.0
        self._progress: Progress | None = None
        self._task: Any = None

    @property
    def samples_per_s(self) -> float:
        """Pairs (or what `unit` says) trained on per second on this device, waiting included, validation not."""
        total = self.wait_s + self.busy_s
        return self.samples / total if total else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the training time in which the device waited for data."""
        total = self.wait_s + self.busy_s
        return self.wait_s / total if total else 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.show and trainer.is_global_zero:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns)
            self._progress.start()
            self._task = self._progress.add_task("training", total=1.0)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._start = time.monotonic()
        if self._end is not None and self._seen > SETTLE_BATCHES:
            self.wait_s += self._start - self._end

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end = time.monotonic()
        self._seen += 1
        if self._seen > SETTLE_BATCHES:
            self.busy_s += self._end - self._start
            self.samples += len(batch[self.key])
        if self._seen % 20 == 0:
            pl_module.log(f"speed/{self.unit}_per_s", self.samples_per_s)
            pl_module.log("speed/data_wait_share", self.wait_share)
        if self._progress is not None:
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            rate = f"{self.samples_per_s:.0f} {self.unit}/s, {self.wait_share:.0%} waiting for data"
            text = f"step {trainer.global_step} loss {loss:.3f} {rate}"
            self._progress.update(self._task, completed=pl_module.progress, description=text)
            if not self._progress.console.is_terminal and self._end - self._line_s > 60:
                self._line_s = self._end
                self._progress.console.print(f"{pl_module.progress:.0%} {text}")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._end = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._end = None

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
