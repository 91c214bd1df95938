"""What is said of simulated episodes: how they look, go on and are joined; imports no simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONTROL_HZ = 80
"""Meta-World's control rate: 5 physics steps of 2.5 ms for each action."""
MAX_STEPS = 500
"""Meta-World's own limit for an episode."""
HEAD_CAMERA = "head"
CAMERAS = (HEAD_CAMERA, "corner", "corner2", "corner3", "corner4", "topview", "behindGripper")
"""`head` is ours: upright, from where a person's head would be. The rest are Meta-World's (its corner cameras hang
upside down); gripperPOV, which rides on the gripper, is not a camera that can stand still."""
Appearance = Literal["robot", "hand", "robot_elsewhere"]


@dataclass(frozen=True)
class Look:
    """How images are taken."""

    size: int = 96
    """Height and width in pixels."""
    camera: str = HEAD_CAMERA
    """One of CAMERAS."""
    appearance: Appearance = "robot"
    """robot: as Meta-World is; hand: another room, and a person's hand in the place of the arm; robot_elsewhere: the robot in
    that room."""
    show_goal: bool = False
    """Draw the goal markers, which give the task away."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024 or self.size % 2:
            raise ValueError(f"size {self.size}: must be even and within 16 to 1024 pixels; choose e.g. 96")
        if self.camera not in CAMERAS:
            raise ValueError(f"camera '{self.camera}': must be one of {', '.join(CAMERAS)}")


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


@dataclass(frozen=True)
class Joining:
    """How the hand comes from one segment to the next."""

    speed_m_s: float = 0.3
    """Of the hand on the straight line."""
    gain: float = 0.1
    """Share of the hand's distance from its planned path that a control step makes up for; 0 follows blindly."""

    def __post_init__(self) -> None:
        if not self.speed_m_s > 0:
            raise ValueError(f"speed_m_s {self.speed_m_s}: must be above 0 metres a second")
        if not 0 <= self.gain <= 1:
            raise ValueError(f"gain {self.gain}: must be within 0 (follows blindly) to 1")


Choice = Literal["nearest", "random"]
