"""What all arms of an ablation have in common: how long they train, and how much data there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What all arms have in common."""

    pretrain_steps: int = 400
    """Optimiser steps on the base alone; an arm without a base takes them on its demonstrations. 0: the base is trained on
    beside the demonstrations only, from scratch."""
    ground_steps: int = 600
    """Optimiser steps on the demonstrations."""
    co_train_share: float = 0.5
    """Share of the base's samples beside those of demonstrations."""
    batch_size: int = 32
    """Samples a step, in both."""
    lr: float = 1e-3
    """Peak learning rate of both."""
    starts: int = 10
    """Unseen starts of each task."""
    execute: int = 8
    """Steps of a chunk that are executed."""
    max_steps: int = 250
    """Control steps of a rollout."""

    @property
    def robot_share(self) -> float:
        """Of all samples that an arm without a base sees: what an arm with one sees of the robot's."""
        return (1 - self.co_train_share) * self.ground_steps / (self.pretrain_steps + self.ground_steps)

    def __post_init__(self) -> None:
        if self.pretrain_steps < 0 or self.ground_steps < 1:
            raise ValueError(
                f"pretrain_steps {self.pretrain_steps}, ground_steps {self.ground_steps}: at least 0 and 1 optimiser steps"
            )
        if not 0 <= self.co_train_share < 1:
            raise ValueError(f"co_train_share {self.co_train_share}: within 0 and 1, e.g. 0.5")
        if not self.pretrain_steps and not self.co_train_share:
            raise ValueError(
                "pretrain_steps 0 with co_train_share 0: nothing would be trained on the base; give either"
            )


@dataclass(frozen=True)
class TierData:
    """How much of each tier there is, and how it looks."""

    human_clips: int = 60
    """Action-free episodes of each task, with the hand's look."""
    synthetic_episodes: int = 10
    """Episodes with actions of each task, seen by a moving camera."""
    robot_episodes: int = 10
    """Of each of the ablation's tasks: the demonstrations, failed ones that are left out, and some that are held out."""
    known_episodes: int = 25
    """Design transfer: demonstrations of each known task."""
    robot_noise: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Of the demonstrations, by turns: a person who shows a robot what to do is steadier than what latents are probed on."""
    human_noise: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Of people's video, likewise: with 0.6 the expert fails in two of three episodes, which people do not."""
    people: int = 100
    """Of how many people each clip shows one, each in a room with objects of their own colours."""
    size: int = 64
    """Pixels of all images."""
    human_frame_every: int = 4
    """Control steps between two frames of people's video: 4 are 20 frames a second."""
    lam_steps: int = 1500
    """Optimiser steps of the latent action model."""
    gap_s: float = 0.5
    """Between the two frames of a latent."""
    seed: int = 100
    """Of all that is simulated; the policies' seeds do not change the data."""
