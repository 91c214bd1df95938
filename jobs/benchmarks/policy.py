"""`giza bench policy`: milliseconds of one action chunk by part, eager and compiled, measured in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from rich.table import Table

from corpora.video.image import fit_square
from jobs.benchmarks.command import BenchPolicyConfig, saved
from jobs.console import numbers_table
from vla.checkpoint import build_policy, load_policy
from vla.policy import ContextTokens, Policy
from vla.recipes import recipe_named

PUBLISHED_MS = {
    "N1.7 on H100, eager: data 6.2, VLM 31.3, head 48.2": 85.8,
    "N1.7 on H100, compiled": 48.6,
    "N1.7 on H100, TensorRT": 27.9,
    "N1.5 on H100": 47.9,
    "N1 on L40": 63.9,
}
"""NVIDIA's figures for one camera and 4 steps (REFERENCE.md, section 2); of 2-3 billion parameters in bf16."""


def run(config: BenchPolicyConfig) -> dict[str, Any]:
    """Measures, writes bench.json and returns it."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    policy = load_policy(config.policy) if config.policy else build_policy(recipe_named(config.recipe).policy)
    policy = policy.to(device, getattr(torch, config.dtype)).eval()
    summary: dict[str, Any] = {
        "policy": config.policy or f"{config.recipe}, random weights",
        "parameters": sum(p.numel() for p in policy.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": config.dtype,
        "cameras": config.cameras,
        "steps": policy.passes,
        "horizon": policy.config.horizon,
        "eager": _measure(config, policy, device, lambda function: function),
        "published_ms": PUBLISHED_MS,
    }
    if config.compiled:
        summary["compiled"] = _measure(config, policy, device, torch.compile)
    return saved(config, summary)


def _measure(
    config: BenchPolicyConfig, policy: Policy, device: torch.device, prepare: Callable[[Any], Any]
) -> dict[str, float]:
    """Medians in milliseconds: preprocess, system2, system1 (all steps), system1_step, chunk (all parts, as one)."""
    size, dtype = policy.config.image_size, next(policy.parameters()).dtype
    rng = np.random.default_rng(config.seed)
    images = rng.integers(0, 256, (config.cameras, config.source_size, config.source_size, 3), np.uint8)
    mask = torch.ones(1, config.cameras, 1, dtype=torch.bool, device=device)
    state = torch.zeros(1, policy.config.max_state_dim, device=device, dtype=dtype)
    state_mask = torch.ones_like(state, dtype=torch.bool)
    embodiment_id = torch.zeros(1, dtype=torch.long, device=device)
    dim = min(8, policy.config.max_action_dim)
    cv2.setNumThreads(1)

    def preprocess() -> torch.Tensor:
        small = np.stack([fit_square(image, size, "stretch") for image in images])
        return torch.from_numpy(small).permute(0, 3, 1, 2)[None, :, None].contiguous().to(device)

    think = prepare(lambda seen: policy.encode(seen, mask, ["pick up the cup"]))
    sample = prepare(lambda tokens: policy.sample(tokens, state, state_mask, embodiment_id, dim))

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times: dict[str, list[float]] = {"preprocess": [], "system2": [], "system1": [], "chunk": []}
    with torch.inference_mode():
        for turn in range(config.warmup + config.repeats):
            synchronise()
            start = time.perf_counter()
            seen = preprocess()
            synchronise()
            prepared = time.perf_counter()
            tokens: ContextTokens = think(seen)
            synchronise()
            thought = time.perf_counter()
            sample(tokens)
            synchronise()
            end = time.perf_counter()
            if turn >= config.warmup:
                times["preprocess"].append(prepared - start)
                times["system2"].append(thought - prepared)
                times["system1"].append(end - thought)
                times["chunk"].append(end - start)
    medians = {name: round(1000 * statistics.median(values), 3) for name, values in times.items()}
    return {
        **medians,
        "system1_step": round(medians["system1"] / policy.passes, 3),
        "chunks_per_s": round(1000 / medians["chunk"], 2),
    }


def table(summary: dict[str, Any]) -> Table:
    """Parts in rows, eager and compiled in columns."""
    title = (
        f"giza bench policy: {summary['policy']}, {summary['parameters'] / 1e6:.1f} M parameters, {summary['dtype']}, "
        f"{summary['device']} ({summary['threads']} threads), {summary['steps']} steps of {summary['horizon']} actions"
    )
    columns = [name for name in ("eager", "compiled") if name in summary]
    result = numbers_table(title, ["ms per chunk"], columns)
    for part, title in (
        ("preprocess", "preprocess (resize)"),
        ("system2", "System 2"),
        ("system1", "System 1, all steps"),
        ("system1_step", "  each step"),
        ("chunk", "chunk"),
        ("chunks_per_s", "chunks/s"),
    ):
        result.add_row(title, *(f"{summary[name][part]:.2f}" for name in columns))
    result.caption = "published, other hardware: " + "; ".join(f"{name}: {ms} ms" for name, ms in PUBLISHED_MS.items())
    return result
