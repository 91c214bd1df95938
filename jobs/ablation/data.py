"""The data of an ablation in Meta-World: robot demonstrations, synthetic episodes, and people's video with its latents."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from corpora.ingestion.settings import IngestSettings
from corpora.mixture.spec import Pyramid, PyramidMember
from jobs.ablation.arms import Arm

EMBODIMENT = "metaworld"


@dataclass(frozen=True)
class TierData:
    """How much of each tier there is, and how it looks."""

    human_clips: int = 60
    """Action-free episodes of each task, with the hand's look."""
    synthetic_episodes: int = 10
    """Episodes with actions of each task, seen by a moving camera."""
    robot_episodes: int = 10
    """Of each task: the demonstrations, failed ones that are left out, and some that are held out."""
    robot_noise: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Of the demonstrations, by turns: a person who shows a robot what to do is steadier than what latents are probed on."""
    human_noise: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Of people's video, likewise: with 0.6 the expert fails in two of three episodes, which people do not."""
    people: int = 100
    """Of how many people each clip shows one, each in a room with objects of their own colours."""
    size: int = 64
    """Pixels of all pictures."""
    human_frame_every: int = 4
    """Control steps between two frames of people's video: 4 are 20 frames a second."""
    lam_steps: int = 1500
    """Optimiser steps of the latent action model."""
    gap_s: float = 0.5
    """Between the two frames of a latent."""
    seed: int = 100
    """Of all that is simulated; the policies' seeds do not change the data."""


@dataclass(frozen=True)
class Prepared:
    """Where the tiers lie."""

    robot: Path
    synthetic: Path
    human: Path
    latents: Path
    pseudo_actions: Path


def prepare(out: Path, tasks: tuple[str, ...], data: TierData, arms: list[Arm], *, quiet: bool) -> Prepared:
    """Simulates, ingests, trains the latent action model and extracts, each where it is wanted and not done yet."""
    from jobs.commands import extract, ingest, simulate, train_lam
    from jobs.commands.ingest import IngestConfig
    from lapa.recipes import RECIPES

    places = Prepared(
        out / "robot", out / "synthetic", out / "human" / "corpus", out / "human" / "latents", out / "human" / "pseudo"
    )
    episode = simulate.EpisodeSettings(seed=data.seed)
    shown = dataclasses.replace(episode, noise=data.robot_noise)
    simulate.run(
        simulate.SimulateConfig(
            out=places.robot, tasks=tasks, episodes=data.robot_episodes, size=data.size, episode=shown
        )
    )
    if any(arm.synthetic for arm in arms):
        moving = dataclasses.replace(episode, seed=data.seed + 1, camera_motion=4.0)
        simulate.run(
            simulate.SimulateConfig(
                out=places.synthetic, tasks=tasks, episodes=data.synthetic_episodes, size=data.size, episode=moving
            )
        )
    if not any(arm.human for arm in arms):
        return places
    video = out / "human" / "video"
    seen = dataclasses.replace(
        episode,
        seed=data.seed + 2,
        noise=data.human_noise,
        people=data.people,
        frame_every=data.human_frame_every,
    )
    simulate.run(
        simulate.SimulateConfig(
            out=video,
            tasks=tasks,
            episodes=data.human_clips,
            size=data.size,
            appearance="hand",
            action_free=True,
            truth=out / "human" / "truth.parquet",
            episode=seen,
        )
    )
    ingest.run(IngestConfig(inputs=(str(video),), out=places.human, settings=IngestSettings(size=data.size)))
    if any(arm.human in ("latent", "both") for arm in arms):
        lam = out / "human" / "lam"
        if not (lam / "run.json").is_file():
            recipe = RECIPES["small"]
            train_lam.run(
                train_lam.TrainLamConfig(
                    corpus=places.human,
                    out=lam,
                    steps=data.lam_steps,
                    model=recipe.model,
                    training=recipe.training,
                ),
                quiet=quiet,
            )
        extract.run(
            extract.ExtractConfig(lam=lam, corpus=places.human, out=places.latents, gap_s=data.gap_s, stride_s=0.0)
        )
    return places


def labelled(places: Prepared, arm: Arm, demos: int) -> Prepared:
    """`places` with the folder of the actions that `arm` gives to people's clips: made with `demos` demonstrations a task."""
    if arm.human not in ("inverse-dynamics", "true"):
        return places
    name = f"{'true' if arm.human == 'true' else 'pseudo'}-demos{demos}"
    return dataclasses.replace(places, pseudo_actions=places.pseudo_actions.with_name(name))


def base_pyramid(arm: Arm, places: Prepared, extra: Pyramid | None) -> Pyramid:
    """What an arm is pretrained on: everything below the robot tier. People's clips of `extra` join where the arm uses
    people's video of that label."""
    members: list[PyramidMember] = []
    if arm.human in ("latent", "both"):
        members.append(
            PyramidMember(
                "human-latent",
                "human",
                "latent",
                embodiment="latent",
                corpus=str(places.human.resolve()),
                latents=str(places.latents.resolve()),
                shuffle_latents_seed=0 if arm.shuffled else None,
            )
        )
    if arm.human == "flare":
        members.append(
            PyramidMember("human-flare", "human", "none", embodiment="latent", corpus=str(places.human.resolve()))
        )
    if arm.human in ("inverse-dynamics", "true"):
        members.append(
            PyramidMember(
                arm.name,
                "human",
                "inverse-dynamics",
                embodiment=EMBODIMENT,
                corpus=str(places.human.resolve()),
                pseudo_actions=str(places.pseudo_actions.resolve()),
            )
        )
    if arm.synthetic:
        members.append(
            PyramidMember(
                "synthetic", "synthetic", "action", embodiment=EMBODIMENT, dataset=str(places.synthetic.resolve())
            )
        )
    if extra is not None:
        wanted = {"latent": ("latent", "both"), "none": ("flare",)}
        for member in extra.members:
            if arm.human and arm.human in wanted.get(member.label, ()):
                members.append(
                    dataclasses.replace(
                        member,
                        corpus=str(extra.path(member.corpus).resolve()),
                        latents=str(extra.path(member.latents).resolve()) if member.latents else "",
                        shuffle_latents_seed=0 if arm.shuffled else member.shuffle_latents_seed,
                    )
                )
    return Pyramid(arm.name, tuple(members), Path())


def robot_member(places: Prepared, demos: int, weight: float) -> PyramidMember:
    """The demonstrations that every arm has."""
    return PyramidMember(
        "demonstrations",
        "robot",
        "action",
        weight=weight,
        embodiment=EMBODIMENT,
        dataset=str(places.robot.resolve()),
        demos=demos,
    )


def hours(places: Prepared) -> dict[str, float]:
    """Hours of each tier, as simulated."""
    found: dict[str, float] = {}
    for tier, place in (
        ("robot", places.robot),
        ("synthetic", places.synthetic),
        ("human", places.human.parent / "video"),
    ):
        record = place / "simulate.json"
        if record.is_file():
            found[tier] = json.loads(record.read_text("utf-8"))["seconds"] / 3600
    return found
