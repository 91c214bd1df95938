"""The report card: one pass over the corpus, every measurement beside its trivial baseline, and the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from corpora.corpus import Corpus
from corpora.manifest import ClipRow
from lapa.action_transfer import TransferStrip, choose_transfers, transfer_agreement, transfer_strips
from lapa.baselines import PictureComponents, change_images, encode_pairs, fixed, shuffled, untrained_models
from lapa.camera_leakage import LEAST_SPREAD, MIN_PAIRS, QUANTITIES, camera_motion, camera_probe, moving_columns
from lapa.code_atlas import Atlas, build_atlas, spread_over_groups
from lapa.code_health import CodeCounter, books_of_positions, latent_health
from lapa.extraction import Featurise
from lapa.known_motion import Truth, choose_holdout, find_known_motion, probe_known_motion
from lapa.latent_action_model import LatentActionModel
from lapa.latent_sample import LatentSample, Progress, read_codes, read_sample
from lapa.pair_frames import THUMB, ModelPairs, pair_pictures, pictures, read_pairs
from lapa.pairs import resize_frames
from lapa.probe import ProbeSettings
from lapa.probe_target import relative_motion
from lapa.quantisers import fsq_levels
from lapa.reconstruction import (
    cut_model_pairs,
    cut_pairs,
    other_pairs,
    reconstruction_errors,
    summarise,
)
from lapa.verdict import judge

CAMERA_TRUTH = "camera.motion"
PICTURE = 96
"""Side of the clips' pictures in the report."""


@dataclass(frozen=True)
class ReportSettings:
    """What a report is asked for."""

    target: str | None = None
    """Known feature to probe for; by default observation.state, or action where there is no state."""
    dims: tuple[int, ...] = ()
    """Its dimensions; by default those that move."""
    budgets: tuple[int, ...] = (64, 256, 1024)
    """Numbers of labelled pairs at which the probe is fitted, beside all of them."""
    test_groups: tuple[str, ...] = ()
    """Globs over groups (source videos, episodes) to test on, instead of those held out of training."""
    gap_s: float | None = None
    """Only pairs with about this gap, where the latents hold several."""
    bootstrap: int = 1000
    """Resamples of the test groups behind each interval."""
    draws: int = 10
    """Random choices of labelled pairs at each budget."""
    untrained_seeds: int = 3
    """Random initialisations that the untrained baseline is averaged over."""
    max_pairs: int = 20000
    """Pairs that are looked at; bounds memory and time."""
    max_clips: int = 3000
    """Clips that are looked at."""
    reconstructions: int = 384
    """Held-out pairs that are decoded."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Of all that is drawn at random; the job's own --seed sets it."""

    def __post_init__(self) -> None:
        for name, least in (("max_pairs", 100), ("max_clips", 2), ("untrained_seeds", 1), ("reconstructions", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
        self.probe  # noqa: B018 - its own checks

    @property
    def probe(self) -> ProbeSettings:
        return ProbeSettings(self.budgets, self.draws, self.bootstrap, seed=self.seed)


@dataclass(frozen=True)
class RunFacts:
    """What is known of the model's training, from its run folder."""

    train_groups: tuple[str, ...] = ()
    held_out_groups: tuple[str, ...] = ()
    labelled_clips: int = 0
    model_hash: str = ""

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RunFacts:
        return RunFacts(
            tuple(record.get("train_groups", ())),
            tuple(record.get("held_out_groups", ())),
            int(record.get("labelled_clips", 0)),
            str(record.get("model_hash", "")),
        )


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


@dataclass
class _Pass:
    """What one reading of the clips leaves behind."""

    thumbs: NDArray[np.uint8]
    untrained: list[NDArray[np.float32]]
    held: list[tuple[NDArray[np.int64], ModelPairs]] = field(default_factory=list)
    gallery: list[tuple[NDArray[np.int64], ModelPairs]] = field(default_factory=list)
    rows: list[ClipRow] = field(default_factory=list)
    ends: list[NDArray[np.uint8]] = field(default_factory=list)


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
    held_out = set(run.held_out_groups)
    prefer = np.isin(sample.group, sorted(held_out))
    rng = np.random.default_rng([settings.seed, 3])
    seen = _read(corpus, sample, model, prefer, settings, featurise, rng, tell)
    warnings = _warnings(sample, run, model)
    card: dict[str, Any] = {
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
    card["latent"] = latent_health(sample.latent, sample.group)
    tell("reconstruction", 0, 1)
    card["reconstruction"], examples = _reconstruction(model, sample, seen, prefer, settings, warnings)
    card["cuts"], cut_examples = _cuts(model, sample, seen, card["reconstruction"], settings, featurise, rng)
    _probes(card, sample, truth, seen, run, settings, warnings, tell)
    card["camera"] = _camera(sample, truth, seen, run, settings, tell)
    tell("action transfer", 0, 1)
    card["transfer"], strips = _transfer(model, sample, seen, rng)
    tell("code atlas", 0, 1)
    atlas = build_atlas(sample, prefer=prefer, seed=settings.seed)
    card["atlas"] = {"kind": atlas.kind, "entries": len(atlas.entries)}
    rows = atlas.rows()
    labels = {int(row): f"{sample.group[row]} at {sample.t_s[row]:.1f} s" for row in rows}
    frames = pair_pictures(corpus, sample, rows, PICTURE)
    card["warnings"] = warnings
    verdict = judge(card)
    card["verdict"], card["verdict_detail"] = verdict.text, verdict.to_json()
    return card, Pictures(atlas, frames, labels, examples, cut_examples, strips)


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
        warnings.append(f"The model saw the actions of {run.labelled_clips} training clips, so it is not trained on video alone.")
    if sample.latent.shape[1] != model.config.latent_size:
        raise ValueError(
            f"the latents have {sample.latent.shape[1]} dimensions, the model {model.config.latent_size}: they are of another "
            "model; extract them again with giza extract"
        )
    return warnings


def _read(
    corpus: Corpus,
    sample: LatentSample,
    model: LatentActionModel,
    prefer: NDArray[np.bool_],
    settings: ReportSettings,
    featurise: Featurise | None,
    rng: np.random.Generator,
    tell: Progress,
) -> _Pass:
    candidates = np.flatnonzero(prefer) if prefer.any() else np.arange(len(sample))
    count = min(settings.reconstructions, len(candidates))
    decoded = np.zeros(len(sample), bool)
    decoded[spread_over_groups(candidates, sample.group, count, rng)] = True
    shown = np.zeros(len(sample), bool)
    for body in np.unique(sample.embodiment):
        of = sample.embodiment == body
        moving = of & (sample.motion >= np.percentile(sample.motion[of], 50))
        pool = moving & prefer if len(np.unique(sample.group[moving & prefer])) > 1 else moving
        shown[spread_over_groups(np.flatnonzero(pool), sample.group, 64, rng)] = True
    networks = untrained_models(model, range(settings.seed + 1, settings.seed + 1 + settings.untrained_seeds))
    width = sample.latent.shape[1]
    seen = _Pass(
        np.zeros((len(sample), 2, THUMB, THUMB, 3), np.uint8),
        [np.zeros((len(sample), width), np.float32) for _ in networks],
    )
    for clip in read_pairs(corpus, sample, model.config, featurise, tell):
        seen.thumbs[clip.rows] = clip.thumbs
        for values, network in zip(seen.untrained, networks, strict=True):
            values[clip.rows] = encode_pairs(network, clip.pairs)
        for mask, kept in ((decoded, seen.held), (shown, seen.gallery)):
            some = np.flatnonzero(mask[clip.rows])
            if len(some):
                kept.append((clip.rows[some], clip.pairs.take(some)))
        seen.rows.append(clip.clip.row)
        seen.ends.append(clip.ends)
    return seen


def _codes(model: LatentActionModel, latents: str | Path) -> tuple[dict[str, Any] | None, str]:
    config = model.config
    quantiser = config.quantiser
    if not quantiser.discrete:
        return None, f"quantiser '{quantiser.kind}' is continuous: there are no codes"
    fsq = quantiser.kind == "fsq"
    size = int(np.prod(fsq_levels(quantiser.codebook_size))) if fsq else quantiser.codebook_size
    books = books_of_positions(quantiser.kind, config.tokens, quantiser.levels, config.stage)
    counter = CodeCounter(size, books)
    for codes in read_codes(latents):
        counter.add(codes)
    return counter.summary(), ""


def _reconstruction(
    model: LatentActionModel,
    sample: LatentSample,
    seen: _Pass,
    prefer: NDArray[np.bool_],
    settings: ReportSettings,
    warnings: list[str],
) -> tuple[dict[str, Any], list[list[NDArray[np.uint8]]]]:
    rows = np.concatenate([rows for rows, _ in seen.held])
    pairs = ModelPairs.joined([pairs for _, pairs in seen.held])
    groups = sample.group[rows]
    rng = np.random.default_rng([settings.seed, 5])
    errors = reconstruction_errors(model, pairs, other_pairs(groups, rng), settings.seed)
    result = summarise(errors, pixels=model.config.pixels)
    result["groups"] = len(np.unique(groups))
    result["on"] = "held-out videos" if prefer.any() else "videos it was trained on (none were held out)"
    result["unit"] = "pixels" if model.config.pixels else f"features of {model.config.target}"
    again = encode_pairs(model, pairs)
    error = float(np.sqrt(((again - sample.latent[rows]) ** 2).mean()))
    if error > 0.05 * max(float(sample.latent[rows].std()), 1e-6):
        warnings.append("The stored latents are not what this model makes of these pairs: extract them again.")
    train = np.ones(len(sample), bool) if not prefer.any() or prefer.all() else ~prefer
    result["pca_explained"] = _pca_explained(sample, seen, train, change_images(seen.thumbs[rows]), settings)
    if not model.config.pixels:
        return result, []
    lively = np.argsort(-sample.motion[rows], kind="stable")[: max(6, len(rows) // 2)]
    chosen = np.array(spread_over_groups(lively, groups, 6, rng), np.int64)
    return result, _example_pictures(model, pairs.take(chosen), settings.seed)


@torch.inference_mode()
def _example_pictures(model: LatentActionModel, pairs: ModelPairs, seed: int) -> list[list[NDArray[np.uint8]]]:
    first, second, valid, flow = pairs.tensors()
    encoding = model.encode(first, second, valid, flow=flow)
    random = model.random_codes(len(first), torch.Generator().manual_seed(seed))
    columns = [first, second]
    columns += [model.decode(first, latent, valid) for latent in (encoding.quantized, encoding.latent, random)]
    arrays = [(c.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy() for c in columns]
    return [[column[k] for column in arrays] for k in range(len(first))]


def _pca_explained(
    sample: LatentSample, seen: _Pass, train: NDArray[np.bool_], change: NDArray[np.float32], settings: ReportSettings
) -> float:
    """Share of the change images' energy that as many principal components as the latent has dimensions keep."""
    components = PictureComponents(seen.thumbs, "change", sample.latent.shape[1], settings.seed).components(train)
    rest = float(((components.rebuild(change) - change) ** 2).sum())
    return 1 - rest / max(float((change**2).sum()), 1e-12)


def _cuts(
    model: LatentActionModel,
    sample: LatentSample,
    seen: _Pass,
    real: dict[str, Any],
    settings: ReportSettings,
    featurise: Featurise | None,
    rng: np.random.Generator,
) -> tuple[dict[str, Any] | None, list[list[NDArray[np.uint8]]]]:
    """Pairs across a cut; only cuts that change the picture more than motion does."""
    chosen, kind = cut_pairs(seen.rows, rng, 128)
    ends = np.stack(seen.ends)
    energy = float(np.median((change_images(seen.thumbs[:: max(1, len(sample) // 2000)]) ** 2).mean(1)))
    jump = [float(((ends[a, 1].astype(np.float32) - ends[b, 0]) ** 2).mean()) / 255**2 for a, b in chosen]
    chosen = [pair for pair, size in zip(chosen, jump, strict=True) if size > 4 * energy]
    if len(chosen) < 4:
        return None, []
    pairs = cut_model_pairs(model, chosen, ends, featurise)
    errors = reconstruction_errors(model, pairs, np.roll(np.arange(len(pairs)), 1), settings.seed)
    result = summarise(errors, pixels=model.config.pixels) | {"kind": kind, "real_explained": real["explained"]}
    thumbs = np.stack([np.stack([ends[a, 1], ends[b, 0]]) for a, b in chosen])
    small = resize_frames(thumbs.reshape(-1, *thumbs.shape[2:]), THUMB).reshape(len(chosen), 2, THUMB, THUMB, 3)
    change = change_images(small)
    result["pca_explained"] = _pca_explained(sample, seen, np.ones(len(sample), bool), change, settings)
    if not model.config.pixels:
        return result, []
    examples = _example_pictures(model, pairs.take(np.arange(min(4, len(pairs)))), settings.seed)
    return result, [columns[:3] for columns in examples]


def _probes(
    card: dict[str, Any],
    sample: LatentSample,
    truth: Truth,
    seen: _Pass,
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


def _camera(
    sample: LatentSample, truth: Truth, seen: _Pass, run: RunFacts, settings: ReportSettings, tell: Progress
) -> dict[str, Any]:
    """{r2_mean, ...} as `camera_probe`, or r2_mean None and the reason; `truth` the same for known camera motion."""
    measured = np.flatnonzero(sample.camera_inlier_ratio > 0)
    result = _camera_from(sample, seen, measured, camera_motion(sample.camera[measured]), QUANTITIES, LEAST_SPREAD, run, settings, tell)
    result["source"] = "measured by tracking"
    has = [row for row, clip in enumerate(sample.clip_id.tolist()) if CAMERA_TRUTH in truth.get(clip, {})]
    if has:
        rows = np.array(has, np.int64)
        values = np.concatenate(
            [
                relative_motion(truth[str(sample.clip_id[row])], CAMERA_TRUTH, sample.t_s[[row]], sample.gap_s[[row]])
                for row in has
            ]
        )
        fine = np.isfinite(values).all(1)
        names = [f"camera.motion[{k}]" for k in range(values.shape[1])]
        least = [1e-3] * values.shape[1]  # a millimetre, a milliradian
        result["truth"] = _camera_from(sample, seen, rows[fine], values[fine], names, least, run, settings, tell)
    return result


def _camera_from(
    sample: LatentSample,
    seen: _Pass,
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    names: Sequence[str],
    least: Sequence[float],
    run: RunFacts,
    settings: ReportSettings,
    tell: Progress,
) -> dict[str, Any]:
    if len(rows) > 8000:
        some = np.linspace(0, len(rows) - 1, 8000).round().astype(np.int64)
        rows, values = rows[some], values[some]
    nothing: dict[str, Any] = {"r2_mean": None, "ci95": None}
    groups = sample.group[rows]
    if len(rows) < MIN_PAIRS or len(np.unique(groups)) < 2:
        return nothing | {"reason": f"the camera's motion is known for {len(rows)} pairs of {len(np.unique(groups))} videos"}
    columns = moving_columns(values, least)
    if not columns:
        return nothing | {"reason": "the camera stands still"}
    tell("camera leakage", 0, 1)
    holdout = choose_holdout(
        groups, trained=set(), held_out=set(), patterns=(), folds=5, seed=settings.seed
    )  # each video in turn: the held-out ones alone are few, and their camera may stand still
    latent = sample.latent[rows]
    features = {
        "latent": fixed(latent),
        "pca": PictureComponents(seen.thumbs[rows], "change", latent.shape[1], settings.seed),
        "untrained": fixed(seen.untrained[0][rows]),
        "shuffled": shuffled(latent, settings.seed, 1),
    }
    chosen = [names[k] for k in columns]
    return camera_probe(features, values[:, columns], chosen, groups, holdout.splits, settings.probe)


def _transfer(
    model: LatentActionModel, sample: LatentSample, seen: _Pass, rng: np.random.Generator
) -> tuple[dict[str, Any], list[TransferStrip]]:
    if not model.config.pixels:
        return {"reason": f"the target is features of {model.config.target}: there is no picture to show"}, []
    rows = np.concatenate([rows for rows, _ in seen.gallery])
    pairs = ModelPairs.joined([pairs for _, pairs in seen.gallery])
    groups, bodies = sample.group[rows], sample.embodiment[rows]
    result: dict[str, Any] = dict(transfer_agreement(model, pairs, other_pairs(groups, rng)))
    across = np.array([rng.choice(np.flatnonzero(bodies != body)) if (bodies != body).any() else -1 for body in bodies])
    result["across_embodiments"] = transfer_agreement(model, pairs, across) if (across >= 0).all() else None
    chosen = choose_transfers(groups, bodies, sample.motion[rows], 8, rng)
    result["strips"] = len(chosen)
    return result, transfer_strips(model, pairs, groups, bodies, chosen)
