"""What is known of LIBERO (Liu et al. 2023, arXiv 2306.03310) without it: suites, the public protocol, what its robot is told and
tells, and which tasks a script solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corpora.store.told import closest

CONTROL_HZ = 20
STARTS = 50
"""Initial states that are stored with each task."""
WAIT_STEPS = 10
"""Control steps at rest, in which the objects settle, before a policy acts."""
EXECUTE = 5
"""Steps of a chunk that are executed before the next is asked for."""


@dataclass(frozen=True)
class Suite:
    """Tasks that are measured together."""

    benchmark: str
    """LIBERO's own name."""
    max_steps: int
    """Control steps, after those at rest, that a rollout may take."""


SUITES = {
    "spatial": Suite("libero_spatial", 220),
    "object": Suite("libero_object", 280),
    "goal": Suite("libero_goal", 300),
    "long": Suite("libero_10", 520),
}
"""As OpenVLA and openpi measure them: the limits are a little above the longest demonstration of each."""

ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Each in [-1, 1]: a displacement of up to 5 cm and a turn of up to 0.5 rad a step, in the world's axes; the gripper opens (-1)
or closes (+1)."""
STATE_NAMES = ("x_m", "y_m", "z_m", "turn_x_rad", "turn_y_rad", "turn_z_rad", "finger_left_m", "finger_right_m")
"""Of the tool: where it is, how it is turned (axis times angle), and both fingers: the published copies' eight."""
CAMERAS = {
    "agentview": ("image", "agentview", "agentview_image", "agentview_rgb", "front", "base_0_rgb"),
    "robot0_eye_in_hand": (
        "wrist_image",
        "image2",
        "wrist",
        "eye_in_hand",
        "robot0_eye_in_hand",
        "eye_in_hand_rgb",
        "left_wrist_0_rgb",
    ),
}
"""LIBERO's camera -> what the published copies call it."""
CAMERA = "image"
"""Ours, as the published copies call it."""

OBJECTS = (
    *("alphabet_soup", "cream_cheese", "salad_dressing", "bbq_sauce", "ketchup", "tomato_sauce", "butter", "milk"),
    *("chocolate_pudding", "orange_juice"),
)
"""Of the suite LIBERO-Object: each has a task of its own, to pick it up and to place it in the basket."""
SCRIPTED = ("alphabet_soup", "ketchup", "butter", "milk")
"""Those that the script places nearly always."""


def object_task(name: str) -> str:
    """LIBERO's name of the task of one of OBJECTS. Raises ValueError for another."""
    if name not in OBJECTS:
        raise ValueError(f"task '{name}': none of LIBERO-Object's. {closest(name, OBJECTS)}")
    return f"pick_up_the_{name}_and_place_it_in_the_basket"


def object_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """LIBERO's names of these objects' tasks. Raises ValueError for an unknown, a repeated or no name."""
    if not names or len(set(names)) != len(names):
        raise ValueError(f"tasks {tuple(names)}: name one or more, each once, e.g. --tasks ketchup milk")
    return tuple(map(object_task, names))


def suite_named(name: str) -> Suite:
    """Raises ValueError for an unknown one."""
    if name not in SUITES:
        raise ValueError(f"suite '{name}': LIBERO has none of this name. {closest(name, SUITES)}")
    return SUITES[name]


@dataclass(frozen=True)
class LiberoLook:
    """How pictures are taken: upright and mirrored, LIBERO's own pictures turned by half a circle, as all published copies of its
    demonstrations have them."""

    size: int = 96
    """Height and width in pixels; the published copies have 256."""
    shadows: bool = False
    """Drawn with shadows, reflections and multisampling, as the published copies are: four times slower."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024 or self.size % 2:
            raise ValueError(f"size {self.size}: must be even and within 16 to 1024 pixels; choose e.g. 96")
