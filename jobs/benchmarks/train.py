"""`giza bench train`: does the training of a latent action model wait for its data, and how near is it to the machine's limit?"""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from corpora.clips.corpus import Corpus
from jobs.benchmarks.command import BenchTrainConfig, saved
from jobs.benchmarks.extract import ingested
from jobs.benchmarks.machine import matmul_tflops
from jobs.commands import train_lam
from jobs.console import numbers_table
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.recipes import RECIPES
from lapa.training import LamTraining

GOAL = 0.05
"""Most of the time that a training may wait for data."""
STEPS_ALONE = 10


def run(config: BenchTrainConfig) -> dict[str, Any]:
    """A short training as `giza train-lam` does it; then its steps on one batch that is at hand."""
    out = config.out.expanduser().absolute()
    recipe = RECIPES[config.recipe]
    corpus = config.corpus or ingested(config.video, out, config.seed)
    training = dataclasses.replace(recipe.training, steps=config.steps, val_every_steps=config.steps)
    if config.batch_size:
        training = dataclasses.replace(training, batch_size=config.batch_size, accumulate=1)
    settings = train_lam.TrainLamConfig(
        corpus=corpus, out=out / "lam", recipe=config.recipe, model=recipe.model, training=training, seed=config.seed
    )
    shutil.rmtree(settings.out, ignore_errors=True)  # it would be finished
    whole = train_lam.run(settings, quiet=True)
    training = dataclasses.replace(training, precision=whole["precision"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = LamTraining(LatentActionModel(recipe.model), training, seed=config.seed).to(device)
    alone, flops = _alone(module, device, training.batch_size, training.precision)
    compiled: dict[str, float] = {}
    if config.compiled:
        for part in module.compiled:
            part.compile()
        rate = _alone(module, device, training.batch_size, training.precision)[0]
        compiled = {"compiled_pairs_per_s": round(rate, 1), "compiled_ratio": round(rate / alone, 3)}
    ceiling = matmul_tflops(device, torch.float32 if training.precision == "32-true" else torch.bfloat16, 2.0)
    summary = {
        "recipe": config.recipe,
        "parameters": whole["parameters"],
        "clips": len(Corpus(corpus).clips),
        "device": device,
        "threads": torch.get_num_threads(),
        "precision": training.precision,
        "batch_size": training.batch_size,
        "pairs_per_s": whole["pairs_per_s"],
        "alone_pairs_per_s": round(alone, 1),
        "ratio": round(whole["pairs_per_s"] / alone, 3),
        "data_wait_share": whole["data_wait_share"],
        "goal_met": whole["data_wait_share"] < GOAL,
        "gflop_per_pair": round(flops / 1e9, 3),
        "matmul_tflops": ceiling,
        "share_of_ceiling": round(alone * flops / ceiling / 1e12, 3),
        **compiled,
    }
    return saved(config, summary)


def _alone(module: LamTraining, device: str, batch_size: int, precision: str) -> tuple[float, float]:
    """(pairs a second, FLOP a pair) of forward, backward and optimiser on one batch of noise."""
    config = module.config
    shape = (batch_size, 3, *config.pair.shape)
    quarter = [side // 4 for side in config.pair.shape]
    flow = torch.rand(batch_size, 2, *quarter, device=device) if config.flow_weight else None
    batch = PairBatch(torch.rand(shape, device=device), torch.rand(shape, device=device), flow=flow)
    optimiser = module.train().configure_optimizers()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision != "32-true"):
            parts, _, _ = module.losses(batch)
            loss = torch.stack(list(parts.values())).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()  # what is set up, or compiled, at first use is not measured
    with FlopCounterMode(display=False) as counter:
        step()
    start = time.perf_counter()
    for _ in range(STEPS_ALONE):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return STEPS_ALONE * batch_size / (time.perf_counter() - start), counter.get_total_flops() / batch_size


def table(summary: dict[str, Any]) -> Table:
    """The speeds, their ratio, and the limits."""
    title = (
        f"giza bench train: {summary['recipe']}, {summary['parameters'] / 1e6:.2f} M parameters, {summary['precision']}, "
        f"batches of {summary['batch_size']}, {summary['device']} ({summary['threads']} threads)"
    )
    result = numbers_table(title, ["stage"], ("pairs/s", ""))
    result.add_row("steps alone, one batch at hand", f"{summary['alone_pairs_per_s']:.0f}", "")
    if "compiled_ratio" in summary:
        told = f"{summary['compiled_ratio']:.2f} times as fast"
        result.add_row("compiled", f"{summary['compiled_pairs_per_s']:.0f}", told)
    result.add_row("training", f"{summary['pairs_per_s']:.0f}", f"{summary['ratio']:.2f} of it")
    wait = "reached" if summary["goal_met"] else "missed"
    result.add_row("waits for data", "", f"{summary['data_wait_share']:.1%} (under {GOAL:.0%}: {wait})")
    share = f"{summary['share_of_ceiling']:.0%} of {summary['matmul_tflops']:.3g} TFLOP/s"
    result.add_row("matrix products alone", "", share)
    return result
