"""`giza bench extract`: is extraction as fast as its slower stage?

Each stage has threads of its own: those that feed (read, decode, resize, undo the camera, optical flow) and those of
the model. "Alone" is a stage with the very threads it has in an extraction, and nothing else running; no stage is given
the other's cores, for then even a perfect overlap of two equal stages would reach no more than half. Rounds of feed,
model and whole follow one another, so that a machine that is busy at times is busy for all of them.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from corpora.clips.corpus import Corpus
from corpora.clips.parts import plan_parts
from corpora.store.files import available_cores, peak_memory_mb
from jobs.benchmarks.command import BenchExtractConfig, saved
from jobs.commands import ingest
from jobs.commands.demo import SAMPLE
from jobs.console import numbers_table
from lapa.extraction.engine import ExtractionPipeline, latent_key, open_pipeline
from lapa.extraction.settings import ExtractionSettings
from lapa.extraction.throughput import end_to_end, feed_alone, model_alone, prepared_sample
from lapa.model.checkpoint import read_lam_config, save_lam
from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.recipes import RECIPES

GOAL = 0.85
"""End to end over the slower stage alone."""
BUSY = 0.05
"""Share of the machine's cores that other programs may use in a round; above it the ratio says more of them than of giza,
and the round counts only where there is no better one."""


def random_model(config: LamConfig, folder: Path, seed: int) -> None:
    """Saves a model with random weights, its codebook settled on random images."""
    torch.manual_seed(seed)
    model = LatentActionModel(config).train()
    shape = (16, 3, *config.pair.shape) if config.pixels else (4, config.patches, config.feature_dim)
    with torch.no_grad():
        model.encode(PairBatch(torch.rand(shape), torch.rand(shape)))
    save_lam(model, folder)


def run(config: BenchExtractConfig) -> dict[str, Any]:
    """Measures and returns what bench.json holds. Raises ValueError where there is no pair to extract."""
    out = config.out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    lam = config.lam or out / "lam"
    if config.lam is None:
        random_model(RECIPES["small"].model, lam, config.seed)
    corpus = Corpus(config.corpus or ingested(config.video, out, config.seed))
    gap_s = config.gap_s
    if gap_s is None:
        gap_s = read_lam_config(lam).pair.extract_gap_s
    settings = ExtractionSettings(
        lam,
        corpus.folder.absolute(),
        gap_s,
        config.stride_s,
        batch_size=config.batch_size,
        workers=config.workers,
        device=config.device,
        seed=config.seed,
    )
    pipeline = open_pipeline(settings)
    parts, key = plan_parts(corpus.clips, settings.part_frames), latent_key(settings, corpus)
    sample = prepared_sample(pipeline, corpus.folder, parts)
    if not sample:
        raise ValueError(f"no clip of {corpus.folder} holds a pair {gap_s:g} s apart; choose a smaller --gap-s")
    model_alone(pipeline, sample, min(1.0, config.seconds))  # what is set up at first use is not measured
    rounds: list[dict[str, float]] = []
    for _ in track(range(config.rounds), "measuring", console=Console(stderr=True)):
        usage = CoreUsage()
        decode = feed_alone(pipeline, corpus.folder, parts, config.seconds)
        model = model_alone(pipeline, sample, config.seconds)
        latents = out / "latents"
        latents.mkdir(exist_ok=True)
        whole = end_to_end(pipeline, corpus.folder, parts, key, latents, int(config.seconds * min(decode, model)))
        shutil.rmtree(latents)
        ratio = whole / min(decode, model)
        others = usage.others_share()
        rounds.append({"end_to_end": whole, "decode": decode, "model": model, "ratio": ratio, "others_share": others})
    return saved(config, _summary(config, pipeline, corpus, gap_s, rounds))


def _summary(
    config: BenchExtractConfig,
    pipeline: ExtractionPipeline,
    corpus: Corpus,
    gap_s: float,
    rounds: list[dict[str, float]],
) -> dict[str, Any]:
    quiet = [entry for entry in rounds if entry["others_share"] <= BUSY]
    medians = {name: statistics.median(entry[name] for entry in quiet or rounds) for name in rounds[0]}
    return {
        "pairs_per_s": round(medians["end_to_end"], 1),
        "decode_pairs_per_s": round(medians["decode"], 1),
        "model_pairs_per_s": round(medians["model"], 1),
        "ratio": round(medians["ratio"], 3),
        "rounds": [{name: round(value, 3) for name, value in entry.items()} for entry in rounds],
        "goal": GOAL,
        "goal_met": medians["ratio"] >= GOAL,
        "cores": available_cores(),
        "decode_threads": pipeline.workers,
        "model_threads": pipeline.torch_threads,
        "others_share": round(medians["others_share"], 3),
        "quiet_rounds": len(quiet),
        "device": pipeline.device,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "clips": len(corpus.clips),
        "source_size": sorted({f"{row.width}x{row.height}" for row in corpus.clips}),
        "stored_size": corpus.clips[0].size,
        "gap_s": gap_s,
    }


class CoreUsage:
    """Who used the cores since it was made."""

    def __init__(self) -> None:
        self._idle, self._all, self._own = self._now()

    def others_share(self) -> float:
        """Share of the cores' time that programs other than this one used."""
        began = self._idle, self._all, self._own
        idle, whole, own = (now - before for now, before in zip(self._now(), began, strict=True))
        return max(0.0, (whole - idle - own) / whole) if whole > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return times.idle + getattr(times, "iowait", 0.0), whole, own.user + own.system


def ingested(video: Sequence[Path], out: Path, seed: int) -> Path:
    """The corpus made of the videos, or of the sample; nothing is done where it is there."""
    inputs = tuple(video) or (SAMPLE,)
    files = [path for root in inputs for path in sorted([root, *root.rglob("*")]) if path.is_file()]
    facts = [f"{path.absolute()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=4).hexdigest()  # changed videos make another corpus
    folder = out / f"corpus-{digest}"
    ingest.run(ingest.IngestConfig(inputs=tuple(str(path) for path in inputs), out=folder, seed=seed))
    return folder


def table(summary: dict[str, Any]) -> Table:
    """The speeds and their ratio."""
    sizes = ", ".join(summary["source_size"])
    title = f"giza bench extract: {summary['clips']} clips of {sizes} on {summary['cores']} cores"
    result = numbers_table(title, ["stage"], ("threads", "pairs/s"))
    decode, model = str(summary["decode_threads"]), str(summary["model_threads"])
    model = model if summary["device"] == "cpu" else summary["device"]
    result.add_row("decode alone", decode, f"{summary['decode_pairs_per_s']:.0f}")
    result.add_row("model alone", model, f"{summary['model_pairs_per_s']:.0f}")
    result.add_row("end to end", f"{decode} + {model}", f"{summary['pairs_per_s']:.0f}")
    verdict = "reached" if summary["goal_met"] else "missed"
    ratios = [entry["ratio"] for entry in summary["rounds"]]
    result.add_row("end to end / slower stage alone", "", f"{summary['ratio']:.2f}")
    used = summary["quiet_rounds"] or len(ratios)
    result.caption = (
        f"median of {used} of {len(ratios)} rounds ({min(ratios):.2f} to {max(ratios):.2f}); {GOAL:g} {verdict}"
    )
    if not summary["quiet_rounds"]:
        result.caption += (
            f"\nbut other programs had {100 * summary['others_share']:.0f}% of the cores: repeat it on an idle machine"
        )
    return result
