"""Processes that train together: which of them this one is, and who started them; known from the environment, before they meet.

torchrun tells each process its RANK and WORLD_SIZE, Slurm's srun its SLURM_PROCID and SLURM_NTASKS; where neither has started
several, the training's own launcher starts the others, and tells them LOCAL_RANK.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Launch:
    """Processes that were started from outside."""

    by: Literal["torchrun", "srun"]
    processes: int
    """Of all machines."""
    machines: int


def launched() -> Launch | None:
    """Who started the processes that train together; None where the training itself does."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = int(os.environ["WORLD_SIZE"])
        return Launch("torchrun", processes, processes // int(os.environ["LOCAL_WORLD_SIZE"]))
    if "LOCAL_RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ:
        return Launch("srun", int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", 1)))
    return None


def process_rank() -> int:
    """Of this process among those that train together."""
    launch = launched()
    if launch is None:
        return int(os.environ.get("LOCAL_RANK", 0))
    return int(os.environ["RANK" if launch.by == "torchrun" else "SLURM_PROCID"])


def expect_processes(devices: int) -> None:
    """Raises ValueError where others than `devices` processes were started."""
    launch = launched()
    if launch is not None and launch.processes != devices:
        raise ValueError(
            f"--training.devices {devices}, and {launch.by} started {launch.processes} processes: they must agree, one process for "
            f"each device; give --training.devices {launch.processes}"
        )
