"""Does the decoder follow the code, on held-out pairs, and is the code more than a copy of the second frame, across
cuts?

Squared errors are averaged over the pixels that both stabilised frames show (all, without camera compensation) and
over pairs before a decibel is taken. All pairs are of groups held out of training where there are such groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.clips.manifest import ClipRow
from lapa.latents import LatentSample
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch, as_frames
from lapa.pairs.pair import resize_frames
from lapa.pairs.reader import PairReader
from lapa.pairs.table import Featurise, PairTable
from lapa.reporting.atlas import spread_over_groups
from lapa.reporting.card import Cuts, Reconstruction
from lapa.reporting.clip_pairs import BATCH, THUMB
from lapa.reporting.clip_pictures import at_aspect
from lapa.reporting.images import Frame
from lapa.reporting.probes.baselines import Components, change_images

NEIGHBOURS = "neighbouring shots"
MAX_CUTS = 96
CUT_ENERGY = 2.0
"""Clips of different sources stand for a cut where the squared change is this many times that of the median pair."""
EXAMPLES = 6


def check_reconstruction(
    model: LatentActionModel,
    sample: LatentSample,
    to_decode: Sequence[tuple[NDArray[np.int64], PairBatch]],
    thumbs: NDArray[np.uint8],
    components: Components,
    on: str,
    aspect: NDArray[np.floating],
    seed: int,
) -> tuple[Reconstruction, list[list[Frame]], bool]:
    """(figures, example images, whether the stored latents are what the model makes of these pairs).

    `to_decode`: pairs, with their rows of the sample; `thumbs` [N, 2, THUMB, THUMB, 3] of the sample;
    `components`: of the training pairs' difference images, as many as the latent has dimensions; `on`: what the pairs
    are; `aspect` [N]: width by height that the images of each pair are shown in.
    """
    rows = np.concatenate([rows for rows, _ in to_decode])
    pairs = PairBatch.cat([pairs for _, pairs in to_decode])
    groups = sample.group[rows]
    rng = np.random.default_rng([seed, 5])
    errors, again = reconstruction_errors(model, pairs, other_pairs(groups, rng), seed)
    found = Reconstruction(
        **_figures(errors, pixels=model.config.pixels),
        pca_explained=_kept(components, change_images(thumbs[rows])),
        groups=len(np.unique(groups)),
        on=on,
        unit="pixels" if model.config.pixels else f"features of {model.config.target}",
    )
    error = float(np.sqrt(((again - sample.latent[rows]) ** 2).mean()))
    ours = error <= 0.05 * max(float(sample.latent[rows].std()), 1e-6)
    if not model.config.pixels:
        return found, [], ours
    lively = np.argsort(-sample.motion[rows], kind="stable")[: max(EXAMPLES, len(rows) // 2)]
    chosen = np.array(spread_over_groups(lively, groups, EXAMPLES, rng), np.int64)
    return found, _examples(model, pairs.take(chosen), aspect[rows[chosen]], seed), ours


def check_cuts(
    model: LatentActionModel,
    clips: Sequence[ClipRow],
    ends: NDArray[np.uint8],
    thumbs: NDArray[np.uint8],
    real_explained: float,
    components: Components,
    featurise: Featurise | None,
    aspect: NDArray[np.floating],
    seed: int,
    rng: np.random.Generator,
) -> tuple[Cuts | None, list[list[Frame]]]:
    """(figures of pairs across a cut, or None where no two clips differ enough; example images).

    `ends` [clips, 2, S, S, 3]: first and last frame of each of `clips`; clips of different sources that look alike are
    left out. `thumbs` and `components` as in `check_reconstruction`; `real_explained` is its figure;
    `aspect` [clips]: width by height that each is shown in.
    """
    chosen, kind = cut_pairs(clips, rng, MAX_CUTS)
    energy = float(np.median((change_images(thumbs[:: max(1, len(thumbs) // 2000)]) ** 2).mean(1)))
    jump = [float(((ends[a, 1].astype(np.float32) - ends[b, 0]) ** 2).mean()) / 255**2 for a, b in chosen]
    if kind != NEIGHBOURS:
        # Strangers may look alike (episodes of one scene); ingest has separated shots already.
        chosen = [pair for pair, size in zip(chosen, jump, strict=True) if size > CUT_ENERGY * energy]
    if len(chosen) < 4:
        return None, []
    pairs = cut_model_pairs(model, chosen, ends, featurise)
    errors, _ = reconstruction_errors(model, pairs, np.roll(np.arange(len(pairs)), 1), seed)
    wanted = pairs.floats()
    guess = (wanted.second.sum(0) - wanted.second) / (len(pairs) - 1)
    guessed = float(masked_error(guess, wanted.second, wanted.valid).mean())
    joined = np.stack([np.stack([ends[a, 1], ends[b, 0]]) for a, b in chosen])
    small = resize_frames(joined.reshape(-1, *joined.shape[2:]), THUMB).reshape(len(chosen), 2, THUMB, THUMB, 3)
    found = Cuts(
        **_figures(errors, pixels=model.config.pixels),
        pca_explained=_kept(components, change_images(small)),
        kind=kind,
        real_explained=real_explained,
        guess_explained=1 - guessed / max(float(errors["copy"].mean()), 1e-12),
    )
    if not model.config.pixels:
        return found, []
    some = np.unique(np.linspace(0, len(pairs) - 1, EXAMPLES).round().astype(np.int64))
    of = aspect[[chosen[k][1] for k in some]]
    return found, [columns[:3] for columns in _examples(model, pairs.take(some), of, seed)]


@torch.inference_mode()
def _examples(model: LatentActionModel, pairs: PairBatch, aspect: NDArray[np.floating], seed: int) -> list[list[Frame]]:
    """Of each pair: first, second, predicted from the code, from the continuous latent, from a random code."""
    batch = pairs.floats()
    first, second, valid = batch.first, batch.second, batch.valid
    encoding = model.encode(batch)
    random = model.random_codes(len(first), torch.Generator().manual_seed(seed))
    columns = [first, second]
    columns += [model.decode(first, latent, valid) for latent in (encoding.quantized, encoding.latent, random)]
    arrays = [as_frames(column) for column in columns]
    return [[at_aspect(column[k], float(aspect[k])) for column in arrays] for k in range(len(first))]


def _kept(components: Components, change: NDArray[np.float32]) -> float:
    """Share of the change images' energy that the components keep."""
    rest = float(((components.rebuild(change) - change) ** 2).sum())
    return 1 - rest / max(float((change**2).sum()), 1e-12)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in decibels of a mean square error of images in [0, 1]."""
    return float("inf") if mse <= 0 else -10 * math.log10(mse)


def masked_error(predicted: Tensor, wanted: Tensor, valid: Tensor | None) -> Tensor:
    """Mean square error of each pair [B] over what is valid [B, 1, S, S]; over everything for features."""
    error = (predicted.float() - wanted.float()).pow(2)
    if valid is None or error.ndim != 4:
        return error.flatten(1).mean(1)
    return (error * valid).flatten(1).sum(1) / (valid.flatten(1).sum(1) * error.shape[1]).clamp(min=1)


@torch.inference_mode()
def reconstruction_errors(
    model: LatentActionModel, pairs: PairBatch, other: NDArray[np.integer], seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float32]]:
    """(mean square error of each pair [P] by what is decoded on its first frame, the pairs' continuous latents [P, D]).

    Tokens beside the latent's (`Encoding.rest`) are the pair's own throughout.
    own: its quantised code; continuous: its latent before quantisation; shuffled: the quantised code of pair `other`
    [P]; random: a random code; copy: nothing is decoded, the (stabilised) first frame stands in; plain_copy: the first
    frame as it was for the second as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    quantized: list[Tensor] = []
    latent: list[Tensor] = []
    rests: list[Tensor | None] = []
    for start in range(0, len(pairs), BATCH):
        encoding = model.encode(pairs.take(slice(start, start + BATCH)).floats())
        quantized.append(encoding.quantized)
        latent.append(encoding.latent)
        rests.append(encoding.rest)
    own, continuous = torch.cat(quantized), torch.cat(latent)
    errors: dict[str, list[Tensor]] = {}
    for rest, start in zip(rests, range(0, len(pairs), BATCH), strict=True):
        part = slice(start, start + BATCH)
        batch = pairs.take(part).floats()
        first, second, valid = batch.first, batch.second, batch.valid
        decoded = {
            "own": model.decode(first, own[part], valid, rest=rest),
            "continuous": model.decode(first, continuous[part], valid, rest=rest),
            "shuffled": model.decode(first, own[torch.from_numpy(other[part])], valid, rest=rest),
            "random": model.decode(first, model.random_codes(len(first), generator), valid, rest=rest),
            "copy": first,
        }
        for name, prediction in decoded.items():
            errors.setdefault(name, []).append(masked_error(prediction, second, valid))
        if second.ndim == 4:
            assert batch.plain is not None
            copied = masked_error(batch.plain[:, 0].contiguous(), batch.plain[:, 1].contiguous(), valid)
            errors.setdefault("plain_copy", []).append(copied)
    return {name: torch.cat(values).double().numpy() for name, values in errors.items()}, continuous.flatten(1).numpy()


def _figures(errors: dict[str, NDArray[np.float64]], *, pixels: bool) -> dict[str, Any]:
    """The fields of `lapa.reporting.card.Decoded` from `reconstruction_errors`, but for PCA's."""
    mean = {name: float(values.mean()) for name, values in errors.items()}
    copy = max(mean["copy"], 1e-12)

    def decibels(name: str) -> float | None:
        return psnr(max(mean[name], 1e-12)) if pixels and name in mean else None

    codes = {"": "own", "continuous_": "continuous", "random_code_": "random", "shuffled_code_": "shuffled"}
    copies = {"copy_": "copy", "plain_copy_": "plain_copy"}
    return {
        "pairs": len(errors["own"]),
        **{f"{field}psnr_db": decibels(name) for field, name in (codes | copies).items()},
        **{f"{field}explained": 1 - mean[name] / copy for field, name in codes.items()},
    }


def other_pairs(groups: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each pair another one [P], of another group where there is one."""
    count = len(groups)
    other = rng.permutation(count)
    for row in np.flatnonzero(groups[other] == groups):
        elsewhere = np.flatnonzero(groups != groups[row])
        if len(elsewhere):
            other[row] = rng.choice(elsewhere)
        elif count > 1:
            other[row] = (row + 1 + rng.integers(count - 1)) % count
    return other


def cut_pairs(rows: Sequence[ClipRow], rng: np.random.Generator, most: int) -> tuple[list[tuple[int, int]], str]:
    """Pairs of clips (index of the one whose last frame, of the one whose first frame is taken) and what they are.

    Shots that follow one another in a source where there are at least 8 such, else clips of different groups.
    """
    last_of: dict[tuple[str, str, int], int] = {}
    first_of: dict[tuple[str, str, int], int] = {}
    for index, row in enumerate(rows):
        key = (row.group, row.source, row.shot)
        if key not in last_of or row.start_s > rows[last_of[key]].start_s:
            last_of[key] = index
        if key not in first_of or row.start_s < rows[first_of[key]].start_s:
            first_of[key] = index
    neighbours = [
        (last_of[group, source, shot], first_of[group, source, shot + 1])
        for group, source, shot in sorted(last_of)
        if (group, source, shot + 1) in first_of
    ]
    if len(neighbours) >= 8:
        order = rng.permutation(len(neighbours))[:most]
        return [neighbours[k] for k in order], NEIGHBOURS
    groups = np.array([row.group for row in rows])
    pairs: list[tuple[int, int]] = []
    for index in rng.permutation(np.repeat(np.arange(len(rows)), 4)).tolist():
        elsewhere = np.flatnonzero(groups != groups[index])
        if len(elsewhere) and len(pairs) < most:
            pairs.append((index, int(rng.choice(elsewhere))))
    return sorted(set(pairs)), "clips of different sources"


def cut_model_pairs(
    model: LatentActionModel,
    pairs: Sequence[tuple[int, int]],
    ends: NDArray[np.uint8],
    featurise: Featurise | None,
) -> PairBatch:
    """`ends` [clips, 2, S, S, 3]: first and last frame of each clip. The camera's motion across a cut is unknown."""
    before, after = np.array(pairs, np.int64).T
    unknown = np.zeros(len(pairs))
    still = np.tile(np.eye(3), (len(pairs), 1, 1))
    frames = ends.reshape(-1, *ends.shape[2:])
    reader = PairReader(model.config.pair, featurise=featurise)
    table = PairTable.of(reader.config, frames, 2 * before + 1, 2 * after, unknown, unknown, still)
    return reader.batch(reader.with_features(table), plain=True)
