"""Measuring a report card: one pass over the corpus, and every check on what it leaves behind."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.several import open_corpora
from corpora.store.files import read_json
from corpora.store.provenance import provenance
from lapa.codes import CodeCounter, Codes, latent_health
from lapa.foreign.bring import foreign_facts
from lapa.foreign.facts import ForeignFacts
from lapa.latents import Latents, LatentSample
from lapa.model.checkpoint import featurise_of, load_lam, model_hash
from lapa.model.lam import LatentActionModel, featurise_for
from lapa.pairs.table import Featurise
from lapa.reporting.atlas import build_atlas
from lapa.reporting.card import AtlasSize, Card, Cuts, Probe, Reconstruction, Transfer
from lapa.reporting.checks.appearance import check_appearance
from lapa.reporting.checks.reconstruction import check_cuts, check_reconstruction
from lapa.reporting.checks.transfer import check_transfer
from lapa.reporting.clip_pictures import ClipPictures, model_aspect, stored_aspect
from lapa.reporting.images import Frame, Images, TransferStrip
from lapa.reporting.latent_map import draw_map
from lapa.reporting.probes.baselines import Components, ImageComponents
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


@dataclass(frozen=True)
class RunFacts:
    """What is known of the model's training, from its run folder."""

    train_groups: tuple[str, ...] = ()
    held_out_groups: tuple[str, ...] = ()
    labelled_clips: int = 0
    model_hash: str = ""
    recipe: str = ""
    steps: int = 0

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
            str(facts.get("recipe", "")),
            int(facts.get("steps", 0)),
        )


NO_MODEL = "Neither the model nor its decoder is at hand"


def report(
    lam: LatentActionModel | str | Path | None,
    corpus: Corpus | str | Path | Sequence[Path],
    latents: Latents | str | Path | Sequence[Path],
    settings: ReportSettings | None = None,
    *,
    run: RunFacts | str | Path | None = None,
    same_pairs: Sequence[Latents] = (),
    progress: Progress | None = None,
) -> Card:
    """May these latents be trusted? Measures `latents`, which were extracted from `corpus` by `lam`; folders or opened. Several
    corpora, each with its latents, are measured together, and read-outs also between their bodies.

    `lam`: a model, or its run folder, which also tells which videos it was trained on; for a model alone give `run`, or
    nothing is known to be held out, which the verdict counts as a concern. None: of latents whose model is not at hand, for
    instance those of `lapa.foreign.bring.bring_in`; what needs the decoder is left out and said. `same_pairs`: only pairs that
    these latents hold as well are looked at, so that cards of both can be compared. Raises ValueError where the
    three do not belong together.
    """
    featurise = None
    if isinstance(lam, str | Path):
        run = RunFacts.of(lam) if run is None else run
        named, lam = lam, load_lam(Path(lam))
        featurise = featurise_of(named, lam.config)
    elif lam is not None:
        featurise = featurise_for(lam.config)
    if not isinstance(run, RunFacts):
        run = RunFacts() if run is None else RunFacts.of(run)
    corpus = corpus if isinstance(corpus, Corpus) else open_corpora(corpus)
    latents = latents if isinstance(latents, Latents) else Latents(latents)
    return make_card(corpus, lam, run, latents, settings or ReportSettings(), featurise, progress, same_pairs)


def make_card(
    corpus: Corpus,
    model: LatentActionModel | None,
    run: RunFacts,
    latents: Latents,
    settings: ReportSettings,
    featurise: Featurise | None = None,
    progress: Progress | None = None,
    same_pairs: Sequence[Latents] = (),
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
        settings.max_pairs,
        settings.seed,
        clips=[row.clip_id for row in clips],
        first=truth,
        gap_s=settings.gap_s,
        same_as=same_pairs,
    )
    warnings = _warnings(sample, run, model)
    prefer = run.unseen(sample.group)
    rng = np.random.default_rng([settings.seed, 3])
    foreign = foreign_facts(latents)
    codes, codes_reason = _codes(model, latents, foreign)
    known, notes = find_known_motion(sample, truth, settings.target, settings.dims)
    progress("code atlas", 0, 1)
    atlas = build_atlas(sample, codes, prefer=prefer, seed=settings.seed)
    latent_map = draw_map(sample, known, [unit.kinds for unit in atlas.units], settings.seed)
    pictures = ClipPictures(set(atlas.rows().tolist()), set(latent_map.clips), corpus.fit)
    clock.lap("atlas")
    seen = survey_clips(corpus, sample, model, prefer, truth, settings, featurise, rng, progress, pictures)
    clock.lap("reading clips")
    progress("principal components", 0, 1)
    principal = ImageComponents(seen.thumbs, "change", sample.latent.shape[1], settings.seed)
    components = principal.components(training_pairs(prefer))
    clock.lap("principal components")
    latent = latent_health(sample.latent, sample.group)
    decoded = _Decoded()
    aspect_of = {row.clip_id: _aspect(row, corpus.fit, model) for row in clips}
    aspect = np.array([aspect_of[clip] for clip in sample.clip_id.tolist()])
    if model is not None:
        progress("reconstruction", 0, 1)
        decoded = _decode(model, sample, seen, components, prefer, featurise, aspect_of, settings.seed, rng)
        if not decoded.ours:
            warnings.append("The stored latents are not what this model makes of these pairs: extract them again.")
    clock.lap("decoding")
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
    transfer, strips, transfer_reason = _transfer(model, sample, seen, aspect, rng)
    clock.lap("transfer")

    def label(row: int) -> str:
        return f"{sample.group[row]} at {sample.t_s[row]:.1f} s"

    points = latent_map.rows
    images = Images(
        atlas,
        pictures.frames,
        {row: label(row) for row in pictures.frames},
        decoded.examples,
        decoded.cut_examples,
        strips,
        latent_map,
        [label(row) for row in points.tolist()],
        sample.t_s[points].tolist(),
        sample.gap_s[points].tolist(),
        pictures.videos,
    )
    card = Card(
        settings=settings,
        pairs=sample.pairs,
        sampled_pairs=len(sample),
        clips=len(np.unique(sample.clip_id)),
        groups=len(np.unique(sample.group)),
        embodiments=sorted(np.unique(sample.embodiment).tolist()),
        gap_s=float(np.median(sample.gap_s)),
        model_hash=", ".join(sample.model_hashes) if model is None else run.model_hash,
        codes=codes,
        codes_reason=codes_reason,
        latent=latent,
        reconstruction=decoded.reconstruction,
        cuts=decoded.cuts,
        appearance=appearance,
        probes=probes,
        probe_reason="" if probes else reason,
        probe_notes=notes,
        camera=camera,
        transfer=transfer,
        transfer_reason=transfer_reason,
        atlas=AtlasSize(atlas.units[0].kinds.name, len(atlas.units[0].entries)),
        seconds=clock.seconds,
        warnings=warnings,
        bodies=bodies,
        corpus_hash=corpus.identity,
        no_decoder="" if model is not None else NO_MODEL,
        foreign=foreign,
        extracted=latents.extracted,
        images=images,
        made={"recipe": run.recipe, "steps": run.steps or None, **provenance()},
    )
    return replace(card, verdicts={body: judge(card, body) for body in card.embodiments})


def training_pairs(held_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a baseline may learn from [N]: pairs that are not held out; all where none or all are."""
    return np.ones_like(held_out) if held_out.all() else ~held_out


@dataclass(frozen=True)
class _Decoded:
    """What the decoder was asked; nothing without one."""

    reconstruction: Reconstruction | None = None
    examples: list[list[Frame]] = field(default_factory=list)
    ours: bool = True
    """Whether the stored latents are what the model makes of these pairs."""
    cuts: Cuts | None = None
    cut_examples: list[list[Frame]] = field(default_factory=list)


def _decode(
    model: LatentActionModel,
    sample: LatentSample,
    seen: Survey,
    components: Components,
    prefer: NDArray[np.bool_],
    featurise: Featurise | None,
    aspect_of: Mapping[str, float],
    seed: int,
    rng: np.random.Generator,
) -> _Decoded:
    on = "held-out videos" if prefer.any() else "videos it may have been trained on (none were held out)"
    aspect = np.array([aspect_of[clip] for clip in sample.clip_id.tolist()])
    found = check_reconstruction(model, sample, seen.to_decode, seen.thumbs, components, on, aspect, seed)
    explained, ends = found[0].explained, np.stack(seen.ends)
    of_clips = np.array([aspect_of[row.clip_id] for row in seen.rows])
    cuts = check_cuts(model, seen.rows, ends, seen.thumbs, explained, components, featurise, of_clips, seed, rng)
    return _Decoded(*found, *cuts)


def _aspect(row: ClipRow, fit: str, model: LatentActionModel | None) -> float:
    return stored_aspect(row, fit) if model is None else model_aspect(row, fit, model.config.pair)


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


def _warnings(sample: LatentSample, run: RunFacts, model: LatentActionModel | None) -> list[str]:
    if model is not None and sample.latent.shape[1] != model.config.latent_size:
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
    model: LatentActionModel | None,
    sample: LatentSample,
    seen: Survey,
    aspect: NDArray[np.floating],
    rng: np.random.Generator,
) -> tuple[Transfer | None, list[TransferStrip], str]:
    if model is None:
        return None, [], NO_MODEL[0].lower() + NO_MODEL[1:]
    if not model.config.pixels:
        return None, [], f"the target is features of {model.config.target}: there is no picture to show"
    rows, pairs = seen.gallery_pairs()
    groups, bodies, motion = sample.group[rows], sample.embodiment[rows], sample.motion[rows]
    return *check_transfer(model, pairs, groups, bodies, motion, aspect[rows], rng), ""


def _codes(model: LatentActionModel | None, latents: Latents, foreign: ForeignFacts | None) -> tuple[Codes | None, str]:
    if model is None:
        return _codes_alone(latents, foreign)
    quantiser = model.quantiser
    if quantiser.continuous:
        return None, f"quantiser '{quantiser.config.kind}' is continuous: there are no codes"
    counter = CodeCounter(quantiser.sizes)
    for codes in latents.codes():
        counter.add(codes)
    return counter.summary(), ""


def _codes_alone(latents: Latents, foreign: ForeignFacts | None) -> tuple[Codes | None, str]:
    """Without a model that says how many codes there are."""
    largest = np.max([codes.max(0) for codes in latents.codes() if codes.size] or [np.zeros(0, np.int32)], axis=0)
    if not len(largest):
        return None, "the latents are continuous: there are no codes"
    told = foreign.codebook_size if foreign and foreign.codebook_told else 0
    counter = CodeCounter((told or int(largest.max()) + 1,) * len(largest))
    for codes in latents.codes():
        counter.add(codes)
    return (
        counter.summary(),
        "" if told else "the codebook's size is not known, and taken to be the largest code and one",
    )


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

        features = latent_features(
            sample, motion.rows, seen.thumbs, seen.untrained, seen.vision, seen.features, settings.seed
        )
        probes[body] = probe_known_motion(motion, sample, features, holdout, settings, on_feature)
    return probes
