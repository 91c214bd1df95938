"""Measuring a report card: one pass over the corpus, and every check on what it leaves behind."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.several import open_corpora
from corpora.store.files import read_json
from lapa.codes import CodeCounter, Codes, latent_health
from lapa.latents import Latents, LatentSample
from lapa.model.checkpoint import load_lam, model_hash
from lapa.model.lam import LatentActionModel, featurise_for
from lapa.pairs.table import Featurise
from lapa.reporting.atlas import build_atlas
from lapa.reporting.card import AtlasSize, Card, Probe, Transfer
from lapa.reporting.checks.appearance import check_appearance
from lapa.reporting.checks.reconstruction import check_cuts, check_reconstruction
from lapa.reporting.checks.transfer import check_transfer
from lapa.reporting.clip_pairs import pair_images
from lapa.reporting.images import Images, TransferStrip
from lapa.reporting.probes.baselines import ImageComponents
from lapa.reporting.probes.bodies import check_bodies
from lapa.reporting.probes.camera import check_camera
from lapa.reporting.probes.motion import (
    KnownMotion,
    Truth,
    choose_holdout,
    find_known_motion,
    latent_features,
    probe_known_motion,
)
from lapa.reporting.settings import Progress, ReportSettings
from lapa.reporting.survey import Survey, survey_clips
from lapa.reporting.verdict import judge

IMAGE = 96
"""Side of the clips' frames in the report."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of the model's training, from its run folder."""

    train_groups: tuple[str, ...] = ()
    held_out_groups: tuple[str, ...] = ()
    labelled_clips: int = 0
    model_hash: str = ""

    def unseen(self, groups: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of `groups` [N] the model was not trained on; none where nothing is known of its training."""
        if self.train_groups:
            return ~np.isin(groups, self.train_groups)
        return np.isin(groups, self.held_out_groups)

    @staticmethod
    def of(folder: str | Path) -> RunFacts:
        """Of a run folder of giza train-lam; the model's hash alone where it holds no run.json."""
        facts = read_json(Path(folder).expanduser() / "run.json") or {}
        return RunFacts(
            tuple(facts.get("train_groups", ())),
            tuple(facts.get("held_out_groups", ())),
            int(facts.get("labelled_clips", 0)),
            model_hash(folder),
        )


def report(
    lam: LatentActionModel | str | Path,
    corpus: Corpus | str | Path | Sequence[Path],
    latents: Latents | str | Path | Sequence[Path],
    settings: ReportSettings | None = None,
    *,
    run: RunFacts | str | Path | None = None,
    progress: Progress | None = None,
) -> Card:
    """May these latents be trusted? Measures `latents`, which were extracted from `corpus` by `lam`; folders or opened. Several
    corpora, each with its latents, are measured together, and read-outs also between their bodies.

    `lam`: a model, or its run folder, which also tells which videos it was trained on; for a model alone give `run`, or
    nothing is known to be held out, which the verdict counts as a concern. Raises ValueError where the three do not
    belong together.
    """
    if isinstance(lam, str | Path):
        run = RunFacts.of(lam) if run is None else run
        lam = load_lam(Path(lam))
    if not isinstance(run, RunFacts):
        run = RunFacts() if run is None else RunFacts.of(run)
    corpus = corpus if isinstance(corpus, Corpus) else open_corpora(corpus)
    latents = latents if isinstance(latents, Latents) else Latents(latents)
    return make_card(corpus, lam, run, latents, settings or ReportSettings(), featurise_for(lam.config), progress)


def make_card(
    corpus: Corpus,
    model: LatentActionModel,
    run: RunFacts,
    latents: Latents,
    settings: ReportSettings,
    featurise: Featurise | None = None,
    progress: Progress | None = None,
) -> Card:
    """The card, with its images and verdict. `featurise`: frames to what a model of features is fed.

    Raises ValueError where latents, corpus and model do not belong together, or a setting names what is not there.
    """
    progress = progress or (lambda what, done, total: None)
    latents.check_of(corpus)
    clock = _Clock()
    clips = _some_clips(corpus.clips, settings)
    truth: Truth = corpus.truth(row.clip_id for row in clips) if corpus.truth_features else {}
    sample = latents.sample(
        settings.max_pairs, settings.seed, clips=[row.clip_id for row in clips], first=truth, gap_s=settings.gap_s
    )
    warnings = _warnings(sample, run, model)
    prefer = run.unseen(sample.group)
    rng = np.random.default_rng([settings.seed, 3])
    seen = survey_clips(corpus, sample, model, prefer, truth, settings, featurise, rng, progress)
    clock.lap("reading clips")
    progress("principal components", 0, 1)
    principal = ImageComponents(seen.thumbs, "change", sample.latent.shape[1], settings.seed)
    components = principal.components(training_pairs(prefer))
    clock.lap("principal components")
    progress("codes", 0, 1)
    codes, codes_reason = _codes(model, latents)
    latent = latent_health(sample.latent, sample.group)
    progress("reconstruction", 0, 1)
    on = "held-out videos" if prefer.any() else "videos it may have been trained on (none were held out)"
    reconstruction, examples, ours = check_reconstruction(
        model, sample, seen.to_decode, seen.thumbs, components, on, settings.seed
    )
    if not ours:
        warnings.append("The stored latents are not what this model makes of these pairs: extract them again.")
    cuts, cut_examples = check_cuts(
        model,
        seen.rows,
        np.stack(seen.ends),
        seen.thumbs,
        reconstruction.explained,
        components,
        featurise,
        settings.seed,
        rng,
    )
    clock.lap("decoding")
    known, notes = find_known_motion(sample, truth, settings.target, settings.dims)
    probes = _probes(known, sample, seen, run, settings, progress)
    bodies = check_bodies(known, sample, seen.thumbs, settings)
    reason = "; ".join(notes) or "no clip of the corpus has ground truth"
    clock.lap("probe")
    progress("camera leakage", 0, 1)
    pca = principal.project(components)
    camera = check_camera(sample, truth, pca, settings)
    clock.lap("camera leakage")
    progress("appearance", 0, 1)
    appearance = check_appearance(sample, seen.thumbs, pca, settings)
    clock.lap("appearance")
    progress("action transfer", 0, 1)
    transfer, strips, transfer_reason = _transfer(model, sample, seen, rng)
    progress("code atlas", 0, 1)
    atlas = build_atlas(sample, prefer=prefer, seed=settings.seed)
    clock.lap("transfer and atlas")
    shown = atlas.rows()
    images = Images(
        atlas,
        {row: list(frames) for row, frames in pair_images(corpus, sample, shown, IMAGE).items()},
        {int(row): f"{sample.group[row]} at {sample.t_s[row]:.1f} s" for row in shown},
        examples,
        cut_examples,
        strips,
    )
    card = Card(
        settings=settings,
        pairs=sample.pairs,
        sampled_pairs=len(sample),
        clips=len(np.unique(sample.clip_id)),
        groups=len(np.unique(sample.group)),
        embodiments=sorted(np.unique(sample.embodiment).tolist()),
        gap_s=float(np.median(sample.gap_s)),
        model_hash=run.model_hash,
        codes=codes,
        codes_reason=codes_reason,
        latent=latent,
        reconstruction=reconstruction,
        cuts=cuts,
        appearance=appearance,
        probes=probes,
        probe_reason="" if probes else reason,
        probe_notes=notes,
        camera=camera,
        transfer=transfer,
        transfer_reason=transfer_reason,
        atlas=AtlasSize(atlas.kind, len(atlas.entries)),
        seconds=clock.seconds,
        warnings=warnings,
        bodies=bodies,
        images=images,
    )
    return replace(card, verdicts={body: judge(card, body) for body in card.embodiments})


def training_pairs(held_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a baseline may learn from [N]: pairs that are not held out; all where none or all are."""
    return np.ones_like(held_out) if held_out.all() else ~held_out


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
    if sample.latent.shape[1] != model.config.latent_size:
        raise ValueError(
            f"the latents have {sample.latent.shape[1]} dimensions, the model {model.config.latent_size}: they are of "
            "another model; extract them again with giza extract"
        )
    warnings = []
    if run.model_hash and sample.model_hashes != (run.model_hash,):
        made_by = ", ".join(sample.model_hashes)
        warnings.append(f"The latents are of model {made_by}, the run folder holds {run.model_hash}: extract again.")
    if not run.train_groups and not run.held_out_groups:
        warnings.append("Nothing is known of the model's training: it may have been trained on what it is tested on.")
    if run.labelled_clips:
        warnings.append(
            f"The model saw the actions of {run.labelled_clips} training clips, so it is not trained on video alone."
        )
    return warnings


def _transfer(
    model: LatentActionModel, sample: LatentSample, seen: Survey, rng: np.random.Generator
) -> tuple[Transfer | None, list[TransferStrip], str]:
    if not model.config.pixels:
        return None, [], f"the target is features of {model.config.target}: there is no picture to show"
    rows, pairs = seen.gallery_pairs()
    groups, bodies, motion = sample.group[rows], sample.embodiment[rows], sample.motion[rows]
    return *check_transfer(model, pairs, groups, bodies, motion, rng), ""


def _codes(model: LatentActionModel, latents: Latents) -> tuple[Codes | None, str]:
    quantiser = model.quantiser
    if quantiser.continuous:
        return None, f"quantiser '{quantiser.config.kind}' is continuous: there are no codes"
    counter = CodeCounter(quantiser.sizes)
    for codes in latents.codes():
        counter.add(codes)
    return counter.summary(), ""


def _probes(
    known: Sequence[KnownMotion],
    sample: LatentSample,
    seen: Survey,
    run: RunFacts,
    settings: ReportSettings,
    progress: Progress,
) -> dict[str, Probe]:
    """By body, that with most known pairs first."""
    probes = {}
    for number, motion in enumerate(known):
        body = motion.embodiment
        holdout = choose_holdout(
            sample.group[motion.rows],
            trained=set(run.train_groups),
            held_out=set(run.held_out_groups),
            patterns=settings.test_groups if number == 0 else (),
            seed=settings.seed,
        )

        def on_feature(name: str, body: str = body) -> None:
            progress(f"probe {body}: {name}", 0, 1)

        features = latent_features(sample, motion.rows, seen.thumbs, seen.untrained, seen.vision, settings.seed)
        probes[body] = probe_known_motion(motion, sample, features, holdout, settings, on_feature)
    return probes
