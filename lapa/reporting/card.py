"""The report card: one pass over the corpus, every measurement beside its trivial baseline, and the verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.codes import CodeCounter, latent_health
from lapa.extraction.engine import Featurise
from lapa.latent_sample import LatentSample, Progress, read_codes, read_sample
from lapa.model.lam import LatentActionModel
from lapa.pairs.frames import pair_pictures
from lapa.reporting.atlas import Atlas, build_atlas
from lapa.reporting.checks.decoding import check_cuts, check_reconstruction, check_transfer
from lapa.reporting.checks.transfer import TransferStrip
from lapa.reporting.probes.baselines import PictureComponents
from lapa.reporting.probes.camera import check_camera
from lapa.reporting.probes.motion import Truth, choose_holdout, find_known_motion, probe_known_motion
from lapa.reporting.settings import ReportSettings, RunFacts
from lapa.reporting.survey import Survey, survey_clips
from lapa.reporting.verdict import judge

PICTURE = 96
"""Side of the clips' pictures in the report."""


@dataclass(frozen=True)
class Pictures:
    """What the page shows; frames are uint8 [S, S, 3]."""

    atlas: Atlas
    frames: dict[int, NDArray[np.uint8]]
    """Row of the sample -> first and second frame."""
    labels: dict[int, str]
    """Row of the sample -> where it is from."""
    reconstructions: list[list[NDArray[np.uint8]]]
    """First, second, predicted from the code, from the continuous latent, from a random code."""
    cuts: list[list[NDArray[np.uint8]]]
    """First, second, predicted, across cuts."""
    transfers: list[TransferStrip]


def make_report_card(
    corpus: Corpus,
    model: LatentActionModel,
    run: RunFacts,
    latents: str | Path,
    settings: ReportSettings,
    featurise: Featurise | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Pictures]:
    """Everything that `report.json` holds, and the pictures of the page.

    Raises ValueError where latents, corpus and model do not belong together, or a setting names what is not there.
    """
    tell: Progress = progress or (lambda what, done, total: None)
    clips = _some_clips(corpus.clips, settings)
    truth: Truth = corpus.read_truth(clips) if corpus.truth_features else {}
    sample = read_sample(
        latents,
        known_clips=[row.clip_id for row in clips],
        with_truth=truth,
        max_pairs=settings.max_pairs,
        seed=settings.seed,
        gap_s=settings.gap_s,
    )
    prefer = run.unseen(sample.group)
    rng = np.random.default_rng([settings.seed, 3])
    clock = _Clock()
    seen = survey_clips(corpus, sample, model, prefer, truth, settings, featurise, rng, tell)
    clock.lap("reading clips")
    tell("principal components", 0, 1)
    train = np.ones(len(sample), bool) if not prefer.any() or prefer.all() else ~prefer
    principal = PictureComponents(seen.thumbs, "change", sample.latent.shape[1], settings.seed)
    components = principal.components(train)
    clock.lap("principal components")
    warnings = _warnings(sample, run, model)
    card: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "pairs": sample.pairs,
        "sampled_pairs": len(sample),
        "clips": len(np.unique(sample.clip_id)),
        "groups": len(np.unique(sample.group)),
        "embodiments": sorted(np.unique(sample.embodiment).tolist()),
        "gap_s": float(np.median(sample.gap_s)),
        "model_hash": run.model_hash,
    }
    tell("codes", 0, 1)
    card["codes"], card["codes_reason"] = _codes(model, latents)
    card["latent"] = dataclasses.asdict(latent_health(sample.latent, sample.group))
    tell("reconstruction", 0, 1)
    card["reconstruction"], examples = check_reconstruction(model, sample, seen, prefer, components, settings, warnings)
    card["cuts"], cut_examples = check_cuts(
        model, sample, seen, card["reconstruction"], components, settings, featurise, rng
    )
    clock.lap("decoding")
    _probes(card, sample, truth, seen, run, settings, warnings, tell)
    clock.lap("probe")
    tell("camera leakage", 0, 1)
    card["camera"] = check_camera(sample, truth, principal.project(components), settings.probe)
    clock.lap("camera leakage")
    tell("action transfer", 0, 1)
    card["transfer"], strips = check_transfer(model, sample, seen, rng)
    tell("code atlas", 0, 1)
    atlas = build_atlas(sample, prefer=prefer, seed=settings.seed)
    clock.lap("transfer and atlas")
    card["seconds"] = clock.seconds
    card["atlas"] = {"kind": atlas.kind, "entries": len(atlas.entries)}
    rows = atlas.rows()
    labels = {int(row): f"{sample.group[row]} at {sample.t_s[row]:.1f} s" for row in rows}
    frames = pair_pictures(corpus, sample, rows, PICTURE)
    card["warnings"] = warnings
    verdict = judge(card)
    card["verdict"], card["verdict_detail"] = verdict.text, verdict.to_json()
    return card, Pictures(atlas, frames, labels, examples, cut_examples, strips)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 2)
        self._last = now


def _some_clips(clips: Sequence[ClipRow], settings: ReportSettings) -> list[ClipRow]:
    def key(row: ClipRow) -> str:
        return hashlib.blake2b(f"{settings.seed}/{row.clip_id}".encode(), digest_size=8).hexdigest()

    if len(clips) <= settings.max_clips:
        return list(clips)
    return sorted(clips, key=key)[: settings.max_clips]


def _warnings(sample: LatentSample, run: RunFacts, model: LatentActionModel) -> list[str]:
    warnings = []
    if run.model_hash and sample.model_hashes != (run.model_hash,):
        warnings.append(
            f"The latents are of model {', '.join(sample.model_hashes)}, the run folder holds {run.model_hash}: extract again."
        )
    if run.labelled_clips:
        warnings.append(
            f"The model saw the actions of {run.labelled_clips} training clips, so it is not trained on video alone."
        )
    if sample.latent.shape[1] != model.config.latent_size:
        raise ValueError(
            f"the latents have {sample.latent.shape[1]} dimensions, the model {model.config.latent_size}: they are of another "
            "model; extract them again with giza extract"
        )
    return warnings


def _codes(model: LatentActionModel, latents: str | Path) -> tuple[dict[str, Any] | None, str]:
    quantiser = model.quantiser
    if quantiser.continuous:
        return None, f"quantiser '{quantiser.config.kind}' is continuous: there are no codes"
    counter = CodeCounter(quantiser.sizes, quantiser.codebook_index)
    for codes in read_codes(latents):
        counter.add(codes)
    return dataclasses.asdict(counter.summary()), ""


def _probes(
    card: dict[str, Any],
    sample: LatentSample,
    truth: Truth,
    seen: Survey,
    run: RunFacts,
    settings: ReportSettings,
    warnings: list[str],
    tell: Progress,
) -> None:
    """Fills probe, probes, probe_reason and probe_notes."""
    card["probe"], card["probes"], card["probe_reason"] = None, {}, "no clip of the corpus has ground truth"
    known, card["probe_notes"] = find_known_motion(sample, truth, settings.target, settings.dims)
    for number, motion in enumerate(known):
        holdout = choose_holdout(
            sample.group[motion.rows],
            trained=set(run.train_groups),
            held_out=set(run.held_out_groups),
            patterns=settings.test_groups if number == 0 else (),
            folds=5,
            seed=settings.seed,
        )
        if number == 0:
            warnings.extend(holdout.warnings)
        title = motion.embodiment
        found = probe_known_motion(
            motion,
            sample,
            seen.thumbs,
            seen.untrained,
            holdout,
            settings.probe,
            lambda name, title=title: tell(f"probe {title}: {name}", 0, 1),  # type: ignore[misc]
        )
        found["warnings"] = holdout.warnings
        card["probes"][title] = found
    if known:
        card["probe"], card["probe_reason"] = card["probes"][known[0].embodiment], ""
    elif card["probe_notes"]:
        card["probe_reason"] = "; ".join(card["probe_notes"])
