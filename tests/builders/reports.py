"""What a report needs, made: a corpus whose truth is known, a model of random weights, and latents that hold what is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.parts import plan_parts
from lapa.latents import LatentKey
from lapa.model.checkpoint import model_hash, save_lam
from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.config import PairConfig
from lapa.pairs.pair import resize_frames
from lapa.reporting.probes.baselines import fit_components
from lapa.reporting.settings import ReportSettings
from tests.builders.corpora import clip_members, sliding_camera, store_clips
from tests.builders.latents import pairs_at, write_made_part
from tests.builders.videos import textured

SIZE, FRAMES, FPS, GAP = 32, 24, 10, 5
EPISODES = 8

CONFIG = LamConfig(
    pair=PairConfig(image_size=32),
    dim=32,
    heads=2,
    spatial_depth=1,
    decoder_depth=1,
    tokens=2,
    latent_dim=8,
    quantiser=QuantiserConfig(kind="nsvq", codebook_size=8),
)

QUICK = ReportSettings(budgets=(16, 10**6), bootstrap=100, draws=3, untrained_seeds=2, reconstructions=24)


def episode(seed: int, camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """A block that wanders over a texture: frames uint8 [FRAMES, SIZE, SIZE, 3] and its position [FRAMES, 2] in pixels."""
    rng = np.random.default_rng(seed)
    world = textured(3 * SIZE, SIZE, seed)
    speed = rng.normal(0, 1.2, (FRAMES, 2))
    for step in range(1, FRAMES):
        speed[step] += 0.8 * speed[step - 1]
    position = np.clip(SIZE / 2 + np.cumsum(speed - speed.mean(0), axis=0), 2, SIZE - 10)
    frames = []
    for step, (x, y) in enumerate(position.astype(int)):
        left = step if camera else 0
        picture = world[:, left : left + SIZE].copy()
        picture[y : y + 8, x : x + 8] = (240, 200, 40)
        frames.append(picture)
    return np.stack(frames), position


def make_corpus(root: Path, *, truth: bool) -> Path:
    """Robot episodes (their positions known where `truth`), and hand videos of two shots each."""
    sources = [(f"robot/episode_{k:06d}", 0, "two_link", "robot") for k in range(EPISODES)]
    sources += [(f"hands/{k // 2}.mp4", k % 2, "", "human") for k in range(20)]

    def clip(number: int, group: str, shot: int, body: str, tier: str) -> tuple[ClipRow, dict[str, bytes]]:
        frames, position = episode(number, camera=tier == "human")
        start = shot * FRAMES / FPS
        row = ClipRow(
            f"{number:016x}", group, group, start_s=start, end_s=start + FRAMES / FPS, frames=FRAMES, width=SIZE,
            height=SIZE, size=SIZE, embodiment=body, tier=tier, shot=shot, kept=True,
        )  # fmt: skip
        camera = sliding_camera(FRAMES - GAP, GAP, 2 * GAP / SIZE if tier == "human" else 0.0, 0.9)
        state = {"observation.state": np.column_stack([position, np.full(FRAMES, 7.0)])}
        known = state if truth and tier == "robot" else None
        return row, clip_members(frames, start + np.arange(FRAMES) / FPS, camera, crf=12, truth=known)

    clips = (clip(number, *source) for number, source in enumerate(sources))
    return store_clips(root, clips, truth_features={"observation.state": 3} if truth else {})


def make_run(root: Path, held_out: tuple[int, ...] = (5, 6, 7), config: LamConfig = CONFIG) -> Path:
    torch.manual_seed(0)
    save_lam(LatentActionModel(config).eval(), root)
    groups = [f"robot/episode_{k:06d}" for k in range(EPISODES)] + [f"hands/{k}.mp4" for k in range(10)]
    held = [groups[k] for k in held_out]
    facts = {"train_groups": [name for name in groups if name not in held], "held_out_groups": held}
    (root / "run.json").write_text(json.dumps(facts), "utf-8")
    return root


def appearance_axes(corpus: Corpus) -> np.ndarray:
    """[192, latent_size]: from a frame's 8 x 8 pixels to as few numbers, the directions that vary most."""
    frames = np.concatenate([episode(int(r.clip_id, 16), camera=r.tier == "human")[0][::4] for r in corpus.clips])
    return fit_components(resize_frames(frames, 8).reshape(len(frames), -1) / 64.0, CONFIG.latent_size, 0).axes.T


def make_latents(root: Path, corpus: Path, lam: Path, kind: str) -> Path:
    """Latents of all pairs: "random"; "motion": linear in the block's motion, with little noise; "pca": principal components
    of the difference image; "copy": a thumbnail of the second frame; "half": half of the numbers of "motion" are one."""
    opened = Corpus(corpus)
    rng = np.random.default_rng(0)
    mix, looks = rng.normal(size=(2, CONFIG.latent_size)), appearance_axes(opened)
    key = LatentKey(model_hash=model_hash(lam), gap_s=0.5, stride_s=0.0, corpus=opened.identity, part_frames=10**6)
    root.mkdir(parents=True)
    first = np.arange(FRAMES - GAP)
    for part in plan_parts(opened.clips, 200):
        columns, latents = [], []
        for row in part.rows:
            frames, position = episode(int(row.clip_id, 16), camera=row.tier == "human")
            motion = position[first + GAP] - position[first]
            latent = rng.normal(size=(len(first), CONFIG.latent_size))
            if kind in ("motion", "half"):
                latent += motion @ mix
            small = resize_frames(frames, 8).reshape(FRAMES, -1) / 64.0
            if kind == "pca":
                latent = small[first + GAP] - small[first]
            elif kind in ("copy", "half"):
                numbers = latent.shape[1] // (1 if kind == "copy" else 2)
                latent[:, :numbers] = (small[first + GAP] @ looks)[:, :numbers]
            latents.append(latent)
            columns.append(
                (
                    row,
                    pairs_at(
                        row.start_s + first / FPS,
                        GAP / FPS,
                        np.abs(motion).mean(1),
                        np.tile(np.eye(3).ravel(), (len(first), 1)),
                        0.9,
                    ),
                )
            )
        latent = np.concatenate(latents)
        if kind == "pca":
            latent = fit_components(latent, CONFIG.latent_size, 0).project(latent)
        codes = rng.integers(8, size=(len(latent), CONFIG.tokens))
        write_made_part(root, part, key, columns, latent, codes=codes)
    return root
