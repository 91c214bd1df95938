"""How Lightning's trainer spreads a training over processes: who starts them, and what they share."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import Strategy

from corpora.store.ranks import expect_processes, launched, process_rank


def spread(devices: int, strategy: str) -> dict[str, Any]:
    """Options of the trainer for `devices` processes, of all machines; `strategy`: auto is ddp on several devices. Raises
    ValueError where another number was started from outside."""
    expect_processes(devices)
    launch = launched()
    environment: ClusterEnvironment
    if launch is None:
        environment = LightningEnvironment()
        if process_rank():  # one of those that the first process started
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
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

        return Sharded(devices)
    return "auto" if devices == 1 else "ddp"


def _end_with(starter: int) -> None:
    """Ends this process after the one that started it, which it would wait for: half an hour where they have not met yet."""
    while os.getppid() == starter:
        time.sleep(1)
    os._exit(1)
