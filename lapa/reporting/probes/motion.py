"""The probes of a report: for each embodiment with known actions what is asked for, its pairs, its split and its
features."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.modality import COLUMNS
from corpora.store.files import digest_of
from lapa.latents import LatentSample
from lapa.pairs.known_motion import relative_motion
from lapa.reporting.atlas import neighbour_agreement
from lapa.reporting.card import HoldoutKind, Probe
from lapa.reporting.known_motion import KnownMotion
from lapa.reporting.probes.baselines import FEATURE_NUMBERS, FeatureComponents, ImageComponents, fixed, shuffled
from lapa.reporting.probes.probe import Feature, Split, held_out_split, k_fold_splits, run_probe
from lapa.reporting.settings import ReportSettings

MOVES_SHARE = 0.1
"""A dimension counts as moving where its spread over pairs is above this share of the widest; what hardly moves has nothing to
be read, and would lower the mean."""
MAX_DIMS = 16
HAND_FIRST = ("metaworld", "sawyer")
"""Embodiments whose state begins with the hand's position: x, y and z are the default target."""
MIN_PAIRS = 40
FEW_GROUPS = 10
"""With fewer test groups than this their resampling gives a rough interval."""
Truth = Mapping[str, Mapping[str, NDArray[Any]]]
"""clip_id -> t_s and features."""


def choose_feature(features: Sequence[str], wanted: str | None) -> str:
    """`wanted`, or the state where there is one, or the action. Raises ValueError where there is none of them."""
    known = sorted(set(features))
    if wanted is not None:
        if wanted not in known:
            raise ValueError(
                f"target '{wanted}': the corpus knows {', '.join(known) or 'no feature'}; name one of these"
            )
        return wanted
    for name in (*COLUMNS["state"], *COLUMNS["action"]):
        if name in known:
            return name
    raise ValueError(
        f"neither {COLUMNS['state'][0]} nor {COLUMNS['action'][0]} among {', '.join(known)}; name a feature with --target"
    )


def choose_dims(motion: NDArray[np.floating], embodiment: str, feature: str, wanted: Sequence[int]) -> list[int]:
    """The dimensions to ask for. Raises ValueError for one that `motion` [N, D] lacks."""
    width = motion.shape[1]
    if wanted:
        wrong = [dim for dim in wanted if not 0 <= dim < width]
        if wrong:
            raise ValueError(f"dims {wrong}: {feature} of '{embodiment}' has dimensions 0 to {width - 1}")
        return [int(dim) for dim in wanted]
    if feature in COLUMNS["state"] and width >= 3 and any(name in embodiment.lower() for name in HAND_FIRST):
        return [0, 1, 2]
    spread = np.nanstd(motion, axis=0)
    moving = np.flatnonzero(spread > MOVES_SHARE * spread.max(initial=0.0))
    widest = moving[np.argsort(-spread[moving], kind="stable")][:MAX_DIMS]
    return sorted(int(dim) for dim in widest)


@dataclass(frozen=True)
class Holdout:
    """How groups were split."""

    splits: list[Split]
    kind: HoldoutKind
    test_groups: list[str]
    warnings: list[str]
    notes: list[str]


def find_known_motion(
    sample: LatentSample, truth: Truth, target: str | None, dims: Sequence[int]
) -> tuple[list[KnownMotion], list[str]]:
    """(known motions, largest first; why an embodiment that has ground truth is not among them).

    Raises ValueError for a target or dimensions that no embodiment has.
    """
    has = np.array([clip in truth for clip in sample.clip_id.tolist()], bool)
    found: list[KnownMotion] = []
    notes: list[str] = []
    errors: list[ValueError] = []
    for embodiment in np.unique(sample.embodiment[has]).tolist():
        rows = np.flatnonzero(has & (sample.embodiment == embodiment))
        features = {name for clip in np.unique(sample.clip_id[rows]) for name in truth[str(clip)] if name != "t_s"}
        if not features and target is None:
            notes.append(f"{embodiment}: no motion of this body is recorded")
            continue
        try:
            feature = choose_feature(sorted(features), target)
            rows, motion = motion_of(sample, truth, rows, feature)
            chosen = choose_dims(motion, embodiment, feature, dims) if len(rows) else []
        except ValueError as error:
            errors.append(error)
            notes.append(f"{embodiment}: {error}")
            continue
        groups = len(np.unique(sample.group[rows]))
        if len(rows) < MIN_PAIRS or groups < 2:
            notes.append(
                f"{embodiment}: {len(rows)} pairs of {groups} episodes with known actions are too few to probe"
            )
            continue
        y = motion[:, chosen]
        if len(chosen) == 0 or (y.std(0) <= 1e-12).any():
            notes.append(f"{embodiment}: {feature} does not move")
            continue
        others = {dim: float(spread) for dim, spread in enumerate(motion.std(0)) if dim not in chosen}
        found.append(KnownMotion(embodiment, feature, chosen, rows, y, others))
    if not found and errors:
        raise errors[0]
    return sorted(found, key=lambda known: -len(known.rows)), notes


def motion_of(
    sample: LatentSample, truth: Truth, rows: NDArray[np.int64], feature: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Those of `rows` whose motion is known, and it, [P, D]: of clips that are in `truth`."""
    kept, parts = [], []
    clips = sample.clip_id[rows]
    for clip in np.unique(clips).tolist():
        of = rows[clips == clip]
        if feature not in truth[clip]:
            continue
        motion = relative_motion(truth[clip], feature, sample.t_s[of], sample.gap_s[of])
        known = np.isfinite(motion).all(1)
        kept.append(of[known])
        parts.append(motion[known])
    if not kept:
        return np.zeros(0, np.int64), np.zeros((0, 0))
    joined = np.concatenate(kept)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(parts)[order]


def choose_holdout(
    groups: NDArray[Any],
    *,
    trained: set[str],
    held_out: set[str],
    patterns: Sequence[str],
    seed: int,
) -> Holdout:
    """Whole groups to test on: those that `patterns` (globs) name, else those held out of training, else each in turn.

    Raises ValueError where a pattern names no group, one or all, or where there is one group only.
    """
    names = sorted(np.unique(groups).tolist())
    warnings: list[str] = []
    notes: list[str] = []
    if patterns:
        test = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
        if not test:
            raise ValueError(
                f"test groups {', '.join(patterns)} match none of {len(names)} groups with known actions, such as "
                f"'{names[0]}'"
            )
        if len(test) == len(names):
            raise ValueError(f"test groups {', '.join(patterns)} match every group: none is left to fit the probe on")
        if len(test) < 2:
            raise ValueError(
                f"test groups {', '.join(patterns)} match one group, {min(test)}: no interval comes from one; name more"
            )
        seen = sorted(test & trained)
        if seen:
            warnings.append(
                f"{len(seen)} of {len(test)} test groups were in the model's training, {seen[0]} for one: the probe "
                "flatters it."
            )
        kind: HoldoutKind = "named"
        splits = held_out_split(groups, test)
    elif len(test := set(names) & held_out) >= 2 and len(test) < len(names):
        kind, splits = "held out of training", held_out_split(groups, test)
    else:
        test = set(names)
        kind, splits = "k-fold", k_fold_splits(groups, seed)
        if test & trained:
            warnings.append(
                f"Only {len(set(names) & held_out)} of {len(names)} episodes with known actions were held out of "
                "training, so each is held out of the probe in turn; the latent model has seen most of their video."
            )
    if len(test) < FEW_GROUPS:
        notes.append(f"The intervals rest on {len(test)} test episodes and are rough.")
    return Holdout(splits, kind, sorted(test), warnings, notes)


def latent_features(
    sample: LatentSample,
    rows: NDArray[np.integer],
    thumbs: NDArray[np.uint8],
    untrained: Sequence[NDArray[np.float32]],
    vision: NDArray[np.float16] | None,
    tokens: NDArray[np.float16] | None,
    seed: int,
) -> dict[str, Feature]:
    """The latent, its code and the baselines, all of one dimension but for the `tokens` of a frozen vision model, for `rows` of
    the sample."""
    latent = sample.latent[rows]
    width = latent.shape[1]
    of_rows = thumbs[rows]
    features: dict[str, Feature] = {"latent": fixed(latent)}
    if sample.codes is not None:
        features["quantized"] = fixed(sample.quantized[rows])
    features["first_frame"] = ImageComponents(of_rows, "first", width, seed)
    if untrained:
        features["untrained"] = fixed(*(values[rows] for values in untrained))
    features["pca"] = ImageComponents(of_rows, "change", width, seed)
    if vision is not None:
        features["vision"] = FeatureComponents(vision[rows], width, seed)
    if tokens is not None:
        features["features"] = FeatureComponents(tokens[rows], FEATURE_NUMBERS, seed)
    features["shuffled"] = shuffled(latent, seed)
    return features


def probe_known_motion(
    known: KnownMotion,
    sample: LatentSample,
    features: Mapping[str, Feature],
    holdout: Holdout,
    settings: ReportSettings,
    progress: Callable[[str], None] | None = None,
) -> Probe:
    """The probe of this motion: the latents beside the baselines, which `latent_features` gives."""
    rows = known.rows
    groups = sample.group[rows]
    found = run_probe(features, known.y, groups, holdout.splits, settings, progress)
    return Probe(
        target=known.what,
        feature=known.feature,
        embodiment=known.embodiment,
        gap_s=float(np.median(sample.gap_s[rows])),
        dims=known.dims,
        spread=known.y.std(0).tolist(),
        other_dims=list(known.others),
        other_spread=list(known.others.values()),
        dimension=int(sample.latent.shape[1]),
        pairs=len(rows),
        groups=len(np.unique(groups)),
        train_pairs=int(holdout.splits[0].train.sum()),
        holdout=holdout.kind,
        test_groups=holdout.test_groups,
        notes=holdout.notes,
        neighbour_agreement=neighbour_agreement(sample.latent[rows], known.y, groups, settings.seed),
        readout=found.all_labels,
        budgets=found.budgets,
        skipped_budgets=found.skipped_budgets,
        warnings=holdout.warnings,
        pairs_hash=pairs_hash(sample, known),
    )


def pairs_hash(sample: LatentSample, known: KnownMotion) -> str:
    """Of which pairs are read (by clip and, to the tenth of a millisecond, time) and what is read of them, in any order."""
    times = np.round(np.stack([sample.t_s, sample.gap_s], 1)[known.rows] * 1e4).astype(np.int64)
    pairs = [f"{clip} {t} {gap}" for clip, (t, gap) in zip(sample.clip_id[known.rows], times.tolist(), strict=True)]
    return digest_of(known.feature, str(known.dims), *sorted(pairs))[:16]
