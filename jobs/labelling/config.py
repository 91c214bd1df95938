"""What `giza label` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from corpora.episodes.selection import ALL_EPISODES, EpisodeSelection
from corpora.store.inputs import READ
from jobs.training.budget import check_budget

TRACK_FIELDS = ("tracks", "robot_tracks", "near", "near_demos", "unknown")
"""Fields that say nothing without --tracks."""
HAND_FIELDS = ("hand", "action_parts", "wrist", "opening", "opens")
"""Fields that say nothing without --hand."""


@dataclass(frozen=True)
class LabelConfig:
    """Train an inverse dynamics model on a robot's episodes, and label every frame of a corpus' clips with it; or, with --tracks,
    learn which actions go with a motion of the tool, and label the motions of the tracks; or, with --tracks and --hand, take how the
    hand moves and opens as the chunks of a robot whose end effector is relative."""

    robot: Path = field(metadata=READ)
    """LeRobot dataset with actions."""
    embodiment: str
    """The policy's slot whose actions these are, for instance franka."""
    corpus: Path = field(metadata=READ)
    """Folder of giza ingest that is labelled."""
    out: Path
    """Folder of the model and the labels; the same command again resumes."""
    tracks: Path | None = field(default=None, metadata=READ)
    """Label by these tracks of the corpus (OUT/tracks of giza crosspaint) instead: their positions are in the robot's space."""
    robot_tracks: Path | None = field(default=None, metadata=READ)
    """With --tracks: folder of an npz file for each of the robot's episodes, as giza simulate --tracks writes it."""
    near: Path | None = field(default=None, metadata=READ)
    """With --tracks: a dataset of the same robot that shows the clips' own tasks, beside `robot`, its files among --robot-tracks. Where
    a motion is too small to tell, the label is what the robot did in the same task where its tool was and moved likewise."""
    near_demos: int = 0
    """Of `near`, the first so many successful episodes of each task; 0: all."""
    unknown: tuple[str, ...] = ("gripper",)
    """With --robot-tracks: words in the names of the action's dimensions that a motion does not tell; they are masked."""
    hand: bool = False
    """With --tracks, instead of --robot-tracks: the hand is the robot's end effector, from where it is at a frame."""
    action_parts: Path | None = field(default=None, metadata=READ)
    """With --hand: TOML file of [[action_parts]], as giza ground has it: the robot's position [x, y, z] is relative, and so is its
    rotation, where it has one; both with per_step."""
    wrist: str = ""
    """With --hand: name of the part that is this position, where several could be (two arms)."""
    opening: tuple[str, ...] = ("gripper",)
    """With --hand: words in the names of the action's dimensions that are how far the hand opens."""
    opens: Literal["", "high", "low"] = ""
    """With --hand: at which end of their range these are open; default: nothing says so, and they are masked."""
    steps: int | None = None
    """Optimiser steps of the model; default 2000, some five minutes on two cores."""
    minutes: float | None = None
    """Wall-clock minutes after which the training stops early."""
    camera: str = ""
    """The robot's camera that the model sees; default: the first of its cameras. Take the one that is most like the clips'."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_EPISODES
    """Of the robot; state and action as the pyramid file has them. Where no action is named, it is of giza simulate's data the
    action done instead of the expert's."""
    normalisation: Literal["min_max", "mean_std", "q01_q99"] = "q01_q99"
    """Of states and actions, as the pyramid file has it: the policy takes over this codec."""
    held_share: float = 0.1
    """Share of the robot's episodes that errors are measured on."""
    horizon: int = 16
    """Steps of a chunk, at least the policy's; the model sees images, or a motion, this many steps apart."""
    image_size: int = 84
    """Pixels; the policy's size spares a second decoding."""
    batch_size: int = 64
    """Pairs of images a training step."""
    lr: float = 1e-3
    """Peak learning rate."""
    channels: tuple[int, ...] = field(default=(32, 64, 128, 128))
    """Of the model's convolutions."""
    part_frames: int = 4096
    """Frames of a Parquet part, which is what a kill can cost."""
    cache: Path | None = None
    """Folder for decoded images; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order, crops and the held-out episodes."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_share < 1:
            raise ValueError(f"--held-share {self.held_share}: within 0 and 1, e.g. 0.1")
        if self.selection.keep_idle:
            raise ValueError("--keep-idle is of a policy's training: labels are learned from every row; leave it out")
        check_budget(self.steps, self.minutes)
        if self.hand and (self.tracks is None or self.robot_tracks is not None or self.near is not None):
            raise ValueError(
                "--hand takes the --tracks of the corpus, and neither --robot-tracks nor --near: give the first, leave out the others"
            )
        if not self.hand and (self.tracks is None) != (self.robot_tracks is None):
            raise ValueError(
                "--tracks and --robot-tracks go together: the corpus' tracks, and those of the robot's episodes; or give --hand"
            )
        if not self.hand and (self.action_parts or self.wrist or self.opens):
            raise ValueError("--action-parts, --wrist, --opens: of labels by --hand; give it too, or leave them out")
        if self.near is not None and self.tracks is None:
            raise ValueError(f"--near {self.near}: is of labels by --tracks; give these too, or leave it out")
        if self.near_demos and self.near is None:
            raise ValueError(f"--near-demos {self.near_demos}: of --near, which is not given")
        if self.tracks is not None and (self.steps is not None or self.minutes is not None):
            raise ValueError("--steps, --minutes: with --tracks nothing is trained step by step; leave them out")
