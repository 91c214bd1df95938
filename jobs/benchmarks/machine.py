"""`giza bench machine`: what the machine can do at most, beside which the other figures stand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from corpora.store.files import available_cores
from jobs.benchmarks.command import BenchMachineConfig, saved
from jobs.console import numbers_table

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the matrices."""
COPIED_BYTES = 1 << 28


def run(config: BenchMachineConfig) -> dict[str, Any]:
    """Best of what `config.seconds` allow of each: matrix products in TFLOP/s by precision, a copy within memory in GB/s (read
    and written bytes)."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    summary = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "tflops": {
            name: matmul_tflops(device, getattr(torch, name), config.seconds) for name in ("float32", "bfloat16")
        },
        "copy_gb_per_s": _copy(device, config.seconds),
    }
    return saved(config, summary)


def matmul_tflops(device: str, dtype: torch.dtype, seconds: float) -> float:
    """The ceiling of whatever is made of matrix products, with the threads that PyTorch has."""
    side = SIDE[device]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return round(2 * side**3 / _fastest_s(lambda: left @ right, device, seconds) / 1e12, 4)


def _copy(device: str, seconds: float) -> float:
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return round(2 * COPIED_BYTES / _fastest_s(lambda: target.copy_(source), device, seconds) / 1e9, 2)


def _fastest_s(call: Callable[[], Any], device: str, seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def table(summary: dict[str, Any]) -> Table:
    """The ceilings."""
    result = numbers_table(
        f"giza bench machine: {summary['device']}, {summary['threads']} threads", ["at most"], ["", ""]
    )
    for name, value in summary["tflops"].items():
        result.add_row(f"matrix products, {name}", f"{value:.3g}", "TFLOP/s")
    result.add_row("copy in memory", f"{summary['copy_gb_per_s']:.1f}", "GB/s")
    return result
