"""What `giza ablate` is told, and its recipes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpora.simulation.tasks import task_names
from jobs.ablation.settings import Budget, TierData
from vla.models.config import PolicyConfig
from vla.recipes import SMALL_FLARE

KNOWN = ("door-lock", "window-open", "button-press-topdown", "plate-slide", "handle-press-side", "peg-unplug-side")
NOVEL = ("door-unlock", "coffee-pull", "window-close", "button-press", "coffee-button", "lever-pull")
"""Of design transfer. One demonstration of a novel task that is replayed blindly solves 10 to 85% of its starts (EXPERIMENTS, E24)."""
SIX = ("drawer-open", "button-press-topdown", "window-open", "door-open", "faucet-open", "faucet-close")
EIGHT = (*SIX, "push", "pick-place")
MANY_PEOPLE = 1_000_000
"""Every clip shows another one."""

POLICY = dataclasses.replace(
    SMALL_FLARE,
    image_size=64,
    hidden=64,
    state_dropout=0.5,
    small=dataclasses.replace(SMALL_FLARE.small, dim=64, channels=(32, 48, 64), colour=0.2),
    dit=dataclasses.replace(SMALL_FLARE.dit, layers=2, heads=2, output_dim=64, future_layer=2),
)
"""The same for all arms: the small policy with 3 x 3 future tokens, on smaller images and half as wide, which takes three
times as many steps in the same time. The state is hidden from half of the samples, or images are not looked at."""


@dataclass(frozen=True)
class AblateConfig:
    """Remove or swap tiers and label kinds, train and evaluate each arm alike, and say what the difference is."""

    out: Path
    """Folder of data, runs, ablation.json and ablation.html; the same command again resumes."""
    recipe: str = "demo"
    """What the other flags override; transfer: demo and standard, joint: joint_demo and joint."""
    design: Literal["transfer", "joint"] = "joint"
    """transfer: known tasks with many demonstrations, novel ones (`tasks`) with few, people's video of the novel ones, and all of
    it made anew for each seed; joint: few demonstrations of all tasks, the same data for all seeds."""
    tasks: tuple[str, ...] = SIX[:3]
    """Meta-World tasks, which policies are tried on."""
    known_tasks: tuple[str, ...] = KNOWN
    """Design transfer: those with many demonstrations."""
    arms: tuple[str, ...] = ("robot-only", "bc", "human-latent", "human-flare")
    """Of transfer: robot-only, robot-half, robot-flare, robot-small, bc, multiplied, human-track, shuffled, shuffled-within,
    human-as-is, as-is-shuffled, same-body, true, human-latent, latent-shuffled, labelled-latent, labelled-shuffled,
    human-flare, flare-shuffled, human-both, both-shuffled, world-only, human-world, world-shuffled; of joint: robot-only, bc,
    synthetic, human-latent, human-flare, human-both, human-idm, human-true, everything, shuffled, world-only, human-world,
    world-shuffled."""
    demos: tuple[int, ...] = (1, 3)
    """Demonstrations of each of `tasks`; 0 only in design transfer."""
    zero_arms: tuple[str, ...] = ()
    """Where `demos` holds 0 beside others, those of `arms` that are run without a demonstration, too; empty: all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """transfer: of everything, a seed is a replicate; joint: of weights, order and noise, with the same data and starts."""
    lift: float = 0.15
    """The lift of success that is looked for: an interval that does not exclude it is too wide to say "no difference"."""
    budget: Budget = dataclasses.field(default_factory=Budget)
    """What all arms have in common."""
    data: TierData = dataclasses.field(default_factory=TierData)
    """How much of each tier there is."""
    extra: Path | None = None
    """Pyramid file whose datasets of people's video (labels latent and none) join the arms that use such video."""
    engine: Literal["local", "ray"] = "local"
    """ray: data and arms over the cluster of RAY_ADDRESS or of `ray start`, whose machines share the folder."""
    parallel: int = 0
    """Arms side by side on this machine; 0: one for each core, at most 8. On a cluster each has as many cores as here."""
    policy: PolicyConfig = POLICY
    """Of all arms; bc and world arms have their own heads."""
    backbone: str = ""
    """A frozen vision model, by hub name or folder, in the place of convolutions from scratch: the leading 128 components of its
    features, or all of fewer."""
    seed: int = 0
    """Of the bootstrap."""

    @property
    def seen_by(self) -> PolicyConfig:
        """The policy of all arms, with the frozen vision model where one is named. Raises ValueError where it does not load."""
        if not self.backbone:
            return self.policy
        from flare.vision import frozen_vision

        components = min(128, frozen_vision(self.backbone).dim)
        vision = dataclasses.replace(self.policy.vision, name=self.backbone, components=components, bfloat16=True)
        return dataclasses.replace(self.policy, image_size=112, vision=vision)

    def demos_of(self, arm: str) -> tuple[int, ...]:
        """Numbers of demonstrations that it is run with."""
        everywhere = not self.zero_arms or arm in self.zero_arms or not any(self.demos)
        return tuple(count for count in self.demos if count or everywhere)

    def __post_init__(self) -> None:
        task_names(self.tasks)
        if not self.demos or min(self.demos) < (0 if self.design == "transfer" else 1):
            raise ValueError(f"--demos {self.demos}: each at least 1, or 0 in design transfer")
        if (
            both := sorted({*task_names(self.tasks)} & {*task_names(self.known_tasks)})
            if self.design == "transfer"
            else []
        ):
            raise ValueError(f"--known-tasks {' '.join(both)}: among --tasks, too; a task is known or novel")
        if self.design == "transfer" and self.extra is not None:
            raise ValueError(f"--extra {self.extra}: joins the arms of design joint only; leave it out")
        if not 0 < self.lift < 1:
            raise ValueError(f"--lift {self.lift}: a share of the starts within 0 and 1, e.g. 0.15")
        if 2 * max(self.demos) + 4 > self.data.robot_episodes:
            raise ValueError(
                f"--demos {max(self.demos)}: needs {2 * max(self.demos) + 4} episodes of each task, since some fail and some "
                f"are held out, and there are {self.data.robot_episodes}; give --data.robot-episodes"
            )
        if not self.seeds:
            raise ValueError("--seeds: at least one; 3 or more for an interval over seeds")
        if self.parallel < 0:
            raise ValueError(f"--parallel {self.parallel}: at least 0 (one for each core)")


RECIPES: dict[str, dict[str, Any]] = {
    "demo": {
        "design": "transfer",
        "tasks": NOVEL[:3],
        "known_tasks": KNOWN[:3],
        "arms": ("robot-only", "bc", "human-track", "shuffled", "true"),
        "demos": (1,),
        "seeds": (0, 1),
        "budget": Budget(pretrain_steps=0, ground_steps=300, starts=6),
        "data": TierData(known_episodes=6, human_clips=12, people=MANY_PEOPLE, lam_steps=400),
    },
    "standard": {
        "design": "transfer",
        "tasks": NOVEL,
        "arms": (
            *("robot-only", "robot-half", "robot-flare", "bc", "human-track", "shuffled", "shuffled-within"),
            *("human-as-is", "as-is-shuffled", "same-body", "true", "human-latent", "latent-shuffled"),
            *("human-flare", "flare-shuffled", "human-both", "both-shuffled"),
        ),
        "demos": (0, 1),
        "zero_arms": ("robot-only", "human-track", "shuffled", "same-body", "true", "human-latent"),
        "seeds": (0, 1, 2, 3, 4),
        "budget": Budget(pretrain_steps=0, ground_steps=600, batch_size=64, starts=16, max_steps=200),
        "data": TierData(human_clips=40, known_episodes=15, people=MANY_PEOPLE, size=84, lam_steps=600),
        "policy": dataclasses.replace(POLICY, image_size=84),
    },
    "joint_demo": {
        "tasks": ("drawer-open", "button-press-topdown", "faucet-open"),
        "demos": (1,),
        "budget": Budget(pretrain_steps=0, ground_steps=400, starts=8),
        "data": TierData(human_clips=20, synthetic_episodes=5, lam_steps=400),
    },
    "joint": {
        "tasks": EIGHT,
        "arms": ("robot-only", "bc", "human-latent", "human-flare", "shuffled"),
        "demos": (1, 3),
        "budget": Budget(pretrain_steps=0, ground_steps=3000, starts=8),
        "data": TierData(human_clips=100, lam_steps=2000),
    },
}
"""Fields that a recipe sets; flags override them."""
