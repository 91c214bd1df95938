"""`extract`: the latents of a corpus, by either engine; what is there already is not made again."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corpora.clips.corpus import Corpus
from corpora.clips.parts import SETTINGS, Part, PartSummary, finished_parts, plan_parts
from corpora.store.files import peak_memory_mb
from corpora.store.run import Run
from lapa.extraction.engine import latent_key, open_pipeline
from lapa.extraction.rounding import measure_rounding
from lapa.extraction.settings import ExtractionSettings
from lapa.extraction.throughput import StageSpeeds, measure_stages
from lapa.latents import SUMMARY, LatentKey, Latents
from lapa.model.checkpoint import made_by, preprocessing_of, read_lam_config, save_lam
from lapa.model.lam import LatentActionModel
from lapa.model.published.checkpoint_file import local

Progress = Callable[[int, int, int], None]
"""Called with (clips done, of how many, pairs of them in this run)."""


def extract(
    lam: LatentActionModel | str | Path,
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Latents:
    """Latent actions of every pair of frames of `corpus` that lie `gap_s` seconds apart (default: what the model was made for),
    one row a pair, written to the folder `out`; pairs of a clip begin at least `stride_s` seconds apart.

    `lam`: a model, its run folder, or a published checkpoint (a file, or hf://owner/repository/file). `options`: gap_s, stride_s
    and the other fields of `ExtractionSettings`.
    Raises ValueError as `write_latents`.
    """
    folder = corpus.folder if isinstance(corpus, Corpus) else Path(corpus)
    with tempfile.TemporaryDirectory() as passing:
        named = None
        if isinstance(lam, LatentActionModel):
            save_lam(lam, passing)
            lam, named = passing, ""
        write_latents(ExtractionSettings(Path(lam), folder, **options), out, progress=progress, named=named)
    return Latents(out)


def write_latents(
    settings: ExtractionSettings, out: str | Path, *, progress: Progress | None = None, named: str | None = None
) -> dict[str, Any]:
    """What `extract` does; returns the record _extract.json. `named`: the model, where it is not to be called by its folder.

    A killed extraction goes on where it was; a finished one does nothing. Raises ValueError where `lam` or `corpus` is not
    one, or `out` holds other latents or is being written to.
    """
    corpus, out = Corpus(settings.corpus), Path(out).expanduser().absolute()
    corpus.expect_clips()
    lam = local(settings.lam)
    config = read_lam_config(lam)
    if config.needs_text:
        raise ValueError(
            f"'{settings.lam}' is a first stage (recipe univla_stage1): its codes hold what the instruction does not "
            "say, which it reads beside the frames; train the second from it (giza train-lam --recipe univla "
            "--init-from), and extract by that"
        )
    gap_s = config.pair.extract_gap_s if settings.gap_s is None else settings.gap_s
    settings = dataclasses.replace(settings, lam=lam, corpus=corpus.folder.absolute(), gap_s=gap_s)
    config.pair.expect(corpus.squared_by)
    key, plan = latent_key(settings, corpus), plan_parts(corpus.clips, settings.part_frames)
    run = Run(out, key.told, summary=SUMMARY, record=SETTINGS, formats={"format": key.format})
    if (before := run.finished) is not None:
        return before
    with run.claim():
        done = finished_parts(out, plan, key)
        todo = [part for part in plan if part.index not in done]
        write = _extract_locally
        if settings.engine == "ray":
            from lapa.extraction.ray_engine import extract_on_ray

            write = extract_on_ray
        written, facts = write(settings, key, todo, out, _counter(plan, done, progress))
        same = ("gap_s", "stride_s", "batch_size", "precision", "compile", "engine", "seed", "part_frames")
        return run.finish(
            {
                **_summary(plan, done, written, facts),
                "model_hash": key.model_hash,
                "made_by": made_by(lam),
                "preprocessing": preprocessing_of(lam, config),
                "stored_px": sorted({row.size for part in plan for row in part.rows}),
                "tokens": config.tokens,
                "lam": str(lam) if named is None else named,
                "corpus": str(settings.corpus),
                **{name: getattr(settings, name) for name in same},
            }
        )


def _counter(
    plan: Sequence[Part], done: dict[int, PartSummary], progress: Progress | None
) -> Callable[[int, int], None]:
    """A function to be called with the (clips, pairs) that were done since its last call."""
    total, clips, pairs = sum(len(part.rows) for part in plan), sum(len(plan[index].rows) for index in done), 0

    def count(more_clips: int, more_pairs: int) -> None:
        nonlocal clips, pairs
        clips, pairs = clips + more_clips, pairs + more_pairs
        if progress is not None:
            progress(clips, total, pairs)

    count(0, 0)
    return count


def _extract_locally(
    settings: ExtractionSettings,
    key: LatentKey,
    todo: Sequence[Part],
    out: Path,
    count: Callable[[int, int], None],
) -> tuple[list[PartSummary], dict[str, Any]]:
    """Writes the parts `todo` in this process: decoding threads feed the model. What it wrote, and how fast.

    `count`: called with the (clips, pairs) that were done since its last call."""
    pipeline = open_pipeline(settings)
    began = time.perf_counter()
    written = list(pipeline.write(settings.corpus, todo, key, out, lambda pairs: count(1, pairs)))
    seconds = time.perf_counter() - began
    peak = peak_memory_mb()  # of the extraction, before anything is measured
    parts = todo or plan_parts(Corpus(settings.corpus).clips, settings.part_frames)
    rounding = measure_rounding(pipeline, settings.corpus, parts)
    speeds = measure_stages(pipeline, settings.corpus, parts, settings.measure_s) if settings.measure_s else None
    return written, {
        "device": pipeline.device,
        "workers": pipeline.workers,
        "torch_threads": pipeline.torch_threads,
        "seconds": seconds,
        "peak_memory_mb": peak,
        "speeds": speeds,
        "rounding": None if rounding is None else dataclasses.asdict(rounding),
    }


def _summary(
    plan: Sequence[Part], done: dict[int, PartSummary], written: Sequence[PartSummary], facts: dict[str, Any]
) -> dict[str, Any]:
    parts = {**done, **{part.index: part for part in written}}
    assert len(parts) == len(plan)
    skipped = [record for index in sorted(parts) for record in parts[index].skipped]
    pairs_now = sum(part.pairs for part in written)
    speeds: StageSpeeds | None = facts.pop("speeds")
    seconds = facts.pop("seconds")
    per_s = pairs_now / seconds if pairs_now and seconds > 0 else None
    decode = speeds.decode_pairs_per_s if speeds else None
    model = speeds.model_pairs_per_s if speeds else None
    return {
        "pairs": sum(part.pairs for part in parts.values()),
        "clips": sum(part.clips for part in parts.values()),
        "clips_skipped": len(skipped),
        "skipped_reasons": dict(Counter(record["reason"] for record in skipped)),
        "skipped": skipped,
        "parts": len(parts),
        "pairs_this_run": pairs_now,
        "wall_s": _rounded(seconds),
        "pairs_per_s": _rounded(per_s),
        "decode_pairs_per_s": _rounded(decode),
        "model_pairs_per_s": _rounded(model),
        "end_to_end_over_slower_stage": _rounded(per_s / min(decode, model)) if per_s and decode and model else None,
        **{name: _rounded(value) if isinstance(value, float) else value for name, value in facts.items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
