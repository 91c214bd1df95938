"""How Lightning's trainer spreads a training over processes: who starts them, and what they share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, Strategy

from corpora.store.ranks import expect_processes, launched

SILENCE = timedelta(minutes=10)
"""After which a process that does not answer ends the training: longer than a checkpoint takes, or a validation."""


def spread(devices: int, strategy: str) -> dict[str, Any]:
    """Options of the trainer for `devices` processes, of all machines; `strategy`: auto is ddp on several devices. Raises
    ValueError where another number was started from outside."""
    expect_processes(devices)
    launch = launched()
    environment: ClusterEnvironment
    if launch is None:
        environment = LightningEnvironment()
    elif launch.by == "torchrun":
        environment = TorchElasticEnvironment()
    else:
        environment = SLURMEnvironment(auto_requeue=False)
    machines = 1 if launch is None else launch.machines
    options = {"devices": devices // machines, "num_nodes": machines, "plugins": [environment]}
    return options | {"strategy": _strategy(devices, strategy)}


def _strategy(devices: int, name: str) -> str | Strategy:
    if name == "fsdp":
        from jobs.training.sharded import Sharded

        return Sharded(devices, timeout=SILENCE)
    return "auto" if devices == 1 else DDPStrategy(timeout=SILENCE)
