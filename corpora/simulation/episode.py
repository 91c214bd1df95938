"""One simulated episode: the expert acts with smooth noise before a camera that stands or moves, and all is recorded.

Frame t shows the world before action t. With `frame_every` k only every k-th control step is stored; the action of a
stored frame is then the mean of the k actions from it to the next.

`action` is what the robot did, noise included: what an image can show, and what latents are probed for. `expert.action`
is what the expert wanted to do where the noise had brought it, which is what is to be imitated (DART, Laskey et al.
2017): smooth noise lasts, so that the action done tells how the hand went astray, hardly how it comes back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.track_file import TrackFile
from corpora.episodes.lerobot_writer import EpisodeRecord, Feature
from corpora.episodes.modality import TASK_ANNOTATION
from corpora.simulation.head_camera import MOTION_NAMES, CameraPose, head_camera_path
from corpora.simulation.metaworld import (
    ACTION_NAMES,
    CONTROL_HZ,
    MAX_STEPS,
    STATE_NAMES,
    VIEW_DISTANCE_M,
    MetaWorldEnv,
    episode_generator,
    smooth_noise,
)

EXPERT_ACTION = "expert.action"
"""Column of the expert's own action. LeRobot takes whatever begins with "action" for one more action to learn."""
EXPERT_ACTIONS = (EXPERT_ACTION, "action.expert")
"""What it is and was called: datasets of before are read as well."""


@dataclass(frozen=True)
class EpisodeSettings:
    """What every episode of a dataset has in common."""

    seed: int = 0
    """Of the dataset; an episode's own seed is made of this, its task and its number."""
    noise: tuple[float, ...] = (0.0, 0.3, 0.6)
    """Levels, one episode after the other: standard deviation of the noise on the expert's action (actions are in
    [-1, 1]), so that the action is not a function of the image."""
    noise_smoothing_s: float = 0.08
    """Standard deviation of the window that smooths the noise over time."""
    camera_motion: float = 0.0
    """Pixels (root mean square) that the image moves within 0.5 s because the head turns; 0 stands still."""
    max_steps: int = 250
    """Control steps (of 12.5 ms) after which an episode ends without success."""
    steps_after_success: int = 10
    """Control steps that an episode goes on for after its success."""
    min_steps: int = 100
    """An episode lasts this many control steps (100 are 1.25 s) even where success comes sooner, so that a clip of it
    holds pairs of frames half a second apart."""
    people: int = 1
    """Of how many people each episode shows one (or the robot) in a room of their own; 1: always the same."""
    frame_every: int = 1
    """Store every k-th control step: 1 is 80 frames a second, 4 is 20."""

    def __post_init__(self) -> None:
        if not self.noise or min(self.noise) < 0:
            raise ValueError(f"noise {self.noise}: needs one level or more, none below 0; e.g. --noise 0 0.3 0.6")
        if self.noise_smoothing_s < 0:
            raise ValueError(f"noise_smoothing_s {self.noise_smoothing_s}: must be at least 0 seconds")
        if self.camera_motion < 0:
            raise ValueError(f"camera_motion {self.camera_motion}: must be at least 0 pixels; 0 stands still")
        if not 1 <= self.max_steps <= MAX_STEPS:
            raise ValueError(f"max_steps {self.max_steps}: must be within 1 to {MAX_STEPS}, Meta-World's own limit")
        if self.steps_after_success < 0:
            raise ValueError(f"steps_after_success {self.steps_after_success}: must be at least 0")
        if self.min_steps < 0:
            raise ValueError(f"min_steps {self.min_steps}: must be at least 0")
        if self.people < 1:
            raise ValueError(f"people {self.people}: must be at least 1")
        if self.frame_every < 1 or CONTROL_HZ % self.frame_every:
            divisors = [k for k in range(1, CONTROL_HZ + 1) if CONTROL_HZ % k == 0]
            raise ValueError(f"frame_every {self.frame_every}: must divide {CONTROL_HZ} Hz; choose one of {divisors}")
        if self.max_steps < self.frame_every:
            raise ValueError(f"max_steps {self.max_steps}: must be at least frame_every, {self.frame_every}")

    @property
    def fps(self) -> int:
        return CONTROL_HZ // self.frame_every

    def level(self, episode: int) -> float:
        """Noise of an episode."""
        return self.noise[episode % len(self.noise)]


def episode_features(pose: CameraPose) -> dict[str, Feature]:
    """The columns that `record_episode` fills, for a camera that stands at `pose` when it stands still."""
    still = dataclasses.asdict(pose)
    return {
        "observation.state": Feature(STATE_NAMES),
        "action": Feature(ACTION_NAMES),
        EXPERT_ACTION: Feature(ACTION_NAMES),
        "next.success": Feature(("success",), "bool"),
        "camera.motion": Feature(
            MOTION_NAMES,
            info={"fovy_deg": still.pop("fovy_deg"), "still_camera": still, "axes": "x right, y up, z back"},
        ),
    }


def episode_modality(camera: str) -> dict[str, Any]:
    """GR00T's meta/modality.json of such a dataset: the action to imitate is the expert's own."""
    return {
        "state": {"robot": {"start": 0, "end": len(STATE_NAMES), "original_key": "observation.state"}},
        "action": {"expert": {"start": 0, "end": len(ACTION_NAMES), "original_key": EXPERT_ACTION}},
        "video": {camera: {"original_key": f"observation.images.{camera}"}},
        "annotation": {name: {"original_key": column} for name, column in TASK_ANNOTATION.items()},
    }


class ToolRecord:
    """Where the agent is in the frames of an episode, as it is recorded."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._masks: list[NDArray[np.bool_]] = []
        self._tools: list[tuple[NDArray[np.float32], float, NDArray[np.float32]]] = []

    def add(self, env: MetaWorldEnv, motion: NDArray[np.float64]) -> None:
        self._masks.append(env.agent_mask(motion))
        self._tools.append(env.tool(motion))

    def file(self) -> TrackFile:
        points, depths, places = (np.array(each, np.float32) for each in zip(*self._tools, strict=True))
        t_s = np.arange(len(self._masks)) / self._fps
        return TrackFile(t_s, np.stack(self._masks), points, {"depth_m": depths, "position_m": places})


def record_episode(
    env: MetaWorldEnv, settings: EpisodeSettings, episode: int, record: EpisodeRecord, tools: ToolRecord | None = None
) -> None:
    """Plays episode number `episode` of the environment's task into `record`, whose facts then have its success, and where
    the agent is into `tools`."""

    def draws(stream: str) -> np.random.Generator:
        # Streams of their own: with the same seed a moving camera watches the very same actions as a still one.
        return episode_generator(settings.seed, env.task, episode, stream)

    level = settings.level(episode)
    noise = smooth_noise(draws("noise"), settings.max_steps, level, smoothing_s=settings.noise_smoothing_s)
    path = head_camera_path(
        draws("camera"),
        settings.max_steps,
        CONTROL_HZ,
        settings.camera_motion,
        env.look.size,
        env.pose.fovy_deg,
        VIEW_DISTANCE_M,
    )
    if env.look.appearance != "robot":
        env.become(int(draws("person").integers(settings.people)))
    state = env.reset(int(draws("start").integers(2**31)))
    succeeded = False
    last_step = settings.max_steps
    while env.steps + settings.frame_every <= last_step:
        step = env.steps
        row: dict[str, Any] = {"observation.state": state, "camera.motion": path[step]}
        image = env.render(path[step])
        if tools is not None:
            tools.add(env, path[step])
        done, wanted = [], []
        reached = False
        for _ in range(settings.frame_every):
            expert = env.expert_action()
            action = np.clip(expert + noise[env.steps], -1, 1).astype(np.float32)
            state = env.step(action)
            done.append(action)
            wanted.append(expert.astype(np.float32))
            reached = reached or env.success
        row |= {"action": np.mean(done, axis=0), EXPERT_ACTION: np.mean(wanted, axis=0), "next.success": reached}
        record.add(image, row)
        if reached and not succeeded:
            succeeded = True
            last_step = min(last_step, max(env.steps + settings.steps_after_success, settings.min_steps))
    record.facts = {"task": env.task, "episode": episode, "noise": level, "success": succeeded, "steps": env.steps}
