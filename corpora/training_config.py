"""What the configurations of all trainings share: the budget, the optimiser, the devices; imports no torch.

Names of metrics say which direction is good: a loss is called one, what is better when it is higher ends in `HIGHER`. Others
are no aim: baselines, learning rates, speeds, what is looked at for alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

HIGHER = "_higher_is_better"


@dataclass(frozen=True)
class Training:
    """How long and how something is trained."""

    precisions: ClassVar[tuple[str, ...]] = ("bf16-mixed", "32-true", "auto")
    counts: ClassVar[tuple[str, ...]] = ("batch_size", "accumulate", "devices", "val_every_steps")
    """Fields that are at least 1."""

    steps: int = 0
    """Optimiser steps, which the schedule spans, so that the same seed gives the same model."""
    minutes: float = 0.0
    """Wall-clock minutes after which it stops early, resumed sessions counted together; 0: no limit."""
    batch_size: int = 64
    """Samples or pairs per batch, over all devices, which must divide it."""
    accumulate: int = 1
    """Batches per optimiser step."""
    lr: float = 1e-3
    """Peak learning rate (AdamW)."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    precision: str = "32-true"
    """Lightning's name; auto: see `jobs.training.precision`."""
    compile: bool = False
    """Compile the blocks of the network (torch.compile): steps are faster once that is done, which takes minutes and a C++ compiler.
    It may change where a run is resumed; what is saved is the same but for rounding."""
    devices: int = 1
    """Devices, of all machines, each with a process of its own; more than one train with DDP. It may change where a run is
    resumed."""
    val_every_steps: int = 500
    """Steps between validations; twice as often a checkpoint is written."""
    workers: int | None = None
    """Loader processes; default: one per core beside the first, at most 8."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"no budget: steps {self.steps}; give --steps (or --training.steps)")
        if self.minutes < 0:
            raise ValueError(f"minutes {self.minutes}: at least 0 (no limit)")
        for name in self.counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size {self.batch_size} with devices {self.devices}: a batch is divided evenly over the devices; choose a "
                f"multiple of {self.devices}, such as {math.ceil(self.batch_size / self.devices) * self.devices}"
            )
        if self.precision not in self.precisions:
            raise ValueError(
                f"precision '{self.precision}': {', '.join(self.precisions[:-1])} or {self.precisions[-1]}"
            )
