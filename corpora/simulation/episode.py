"""One simulated episode: the expert, or another actor, acts with smooth noise before a camera that stands or moves, and all is
recorded.

Frame t shows the world before action t. With `frame_every` k only every k-th control step is stored; the action of a
stored frame is then the mean of the k actions from it to the next.

`action` is what the robot did, noise included: what an image can show, and what latents are probed for. `expert.action`
is what the expert wanted to do where the noise had brought it, which is what is to be imitated (DART, Laskey et al.
2017): smooth noise lasts, so that the action done tells how the hand went astray, hardly how it comes back.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corpora.agent.track_file import TrackFile
from corpora.episodes.lerobot_writer import EpisodeRecord, Feature
from corpora.episodes.modality import TASK_ANNOTATION
from corpora.simulation.head_camera import MOTION_NAMES, CameraPose, head_camera_path
from corpora.simulation.metaworld import (
    ACTION_NAMES,
    STATE_NAMES,
    VIEW_DISTANCE_M,
    MetaWorldEnv,
    episode_generator,
    smooth_noise,
)
from corpora.simulation.settings import CONTROL_HZ, MAX_STEPS, EpisodeSettings

EXPERT_ACTION = "expert.action"
"""Column of the expert's own action. LeRobot takes whatever begins with "action" for one more action to learn."""
EXPERT_ACTIONS = (EXPERT_ACTION, "action.expert")
"""What it is and was called: datasets of before are read as well."""


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


class Actor(Protocol):
    """Who acts in an episode."""

    @property
    def name(self) -> str:
        """Sets its starts, noise and cameras apart from those of other actors; "" is the expert."""
        ...

    def begin(self, env: MetaWorldEnv, number: int) -> int:
        """The scene of episode `number` is set: how many control steps there are to do."""
        ...

    def wanted(self, env: MetaWorldEnv) -> NDArray[np.float64]:
        """[4], each within [-1, 1]."""
        ...

    def noisy(self, step: int) -> bool:
        """Whether noise comes upon the action of this control step."""
        ...


class Expert:
    """Meta-World's script."""

    name = ""

    def begin(self, env: MetaWorldEnv, number: int) -> int:
        return MAX_STEPS

    def wanted(self, env: MetaWorldEnv) -> NDArray[np.float64]:
        return env.expert_action()

    def noisy(self, step: int) -> bool:
        return True


EXPERT = Expert()


def start_seed(seed: int, task: str, episode: int, actor: str = "") -> int:
    """What `MetaWorldEnv.reset` gets for this episode of a dataset of seed `seed`."""
    return int(episode_generator(seed, task, episode, f"{actor}start").integers(2**31))


def record_episode(
    env: MetaWorldEnv,
    settings: EpisodeSettings,
    episode: int,
    record: EpisodeRecord | None,
    tools: ToolRecord | None = None,
    actor: Actor = EXPERT,
) -> dict[str, Any]:
    """Plays episode number `episode` of the environment's task into `record`, and where the agent is into `tools`; returns the
    facts of the episode, which `record` has, too: task, episode, noise, success, steps. Without a record nothing is drawn."""

    def draws(stream: str) -> np.random.Generator:
        # Streams of their own: with the same seed a moving camera watches the very same actions as a still one.
        return episode_generator(settings.seed, env.task, episode, actor.name + stream)

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
    state = env.reset(start_seed(settings.seed, env.task, episode, actor.name))
    succeeded = False
    last_step = min(settings.max_steps, actor.begin(env, episode))
    while env.steps + settings.frame_every <= last_step:
        step = env.steps
        row: dict[str, Any] = {"observation.state": state, "camera.motion": path[step]}
        image = None if record is None else env.render(path[step])
        if tools is not None:
            tools.add(env, path[step])
        done, wanted = [], []
        reached = False
        for _ in range(settings.frame_every):
            want = actor.wanted(env)
            action = np.clip(want + noise[env.steps] * actor.noisy(env.steps), -1, 1).astype(np.float32)
            state = env.step(action)
            done.append(action)
            wanted.append(want.astype(np.float32))
            reached = reached or env.success
        row |= {"action": np.mean(done, axis=0), EXPERT_ACTION: np.mean(wanted, axis=0), "next.success": reached}
        if record is not None and image is not None:
            record.add(image, row)
        if reached and not succeeded:
            succeeded = True
            last_step = min(last_step, max(env.steps + settings.steps_after_success, settings.min_steps))
    facts = {"task": env.task, "episode": episode, "noise": level, "success": succeeded, "steps": env.steps}
    if record is not None:
        record.facts = facts
    return facts
