"""Another agent in the place of the one that is seen: a class for each, known by its name, and the painter that they share.

    painter = Painter(open_agent(PaintSettings(agent="dot"), size=128))
    painted = painter.paint(frames, track)       # [T, S, S, 3] and a `Track`; T may be 1, then frame after frame
    painter.begin()                              # another video

The same at training and at acting: a frame is painted from itself and those before it. An agent of one's own is a class too:

    @register
    class Mine(Agent):
        name = "mine"
        ...                                      # giza crosspaint --agent mine
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.agent.background import Background
from corpora.agent.settings import PaintSettings
from corpora.agent.track import Track
from corpora.video.view import AS_CUT, DOT, DOT_RADIUS, NOBODY, View


@dataclass(frozen=True)
class Stamp:
    """What is drawn into one frame."""

    image: NDArray[np.uint8]
    """[S, S, 3], of which the pixels `mask` count."""
    mask: NDArray[np.bool_]
    """[S, S]."""
    depth_m: float = math.nan
    """Of the tool that it shows, as in `Track`."""
    position_m: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    cutout: str = ""
    """Clip and frame that it was cut from; empty where it was drawn."""
    shift_px: float = 0.0
    """How far it was moved to the point."""
    scale: float = 1.0
    """By how much it was made larger."""


@dataclass(frozen=True)
class Shown:
    """What is known of the video that a track is of; an agent may choose by it."""

    t_s: NDArray[np.float64]
    """[T]."""
    progress: NDArray[np.float64]
    """[T], from 0 to 1: how far the video has come; NaN where its end is not known."""
    text: str = ""
    """What is done in it."""


class Agent(ABC):
    """Who is painted."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str] | None] = None
    """Names of the settings that say something of its pictures, `BY_PAINTER` among them; None: all."""

    @abstractmethod
    def __init__(self, settings: PaintSettings, size: int) -> None:
        """For frames of `size` pixels. Raises ValueError where the settings lack what it needs."""

    @property
    def identity(self) -> str:
        """Changes with whatever it is made of beside the settings."""
        return ""

    @abstractmethod
    def stamps(self, track: Track, shown: Shown) -> Sequence[Stamp | None]:
        """What is drawn into each frame of the track; None: nothing."""


BY_PAINTER: Final = frozenset({"background", "margin"})
"""Settings that are read whoever is painted."""
_Agent = TypeVar("_Agent", bound=type[Agent])
AGENTS: dict[str, type[Agent]] = {}


def register(agent: _Agent) -> _Agent:
    """Makes an agent known by its name; registered again it takes the place of its older self."""
    AGENTS[agent.name] = agent
    return agent


@register
class NoAgent(Agent):
    """Nobody: the background alone."""

    name, reads = NOBODY, BY_PAINTER

    def __init__(self, settings: PaintSettings, size: int) -> None:
        """Needs nothing."""

    def stamps(self, track: Track, shown: Shown) -> Sequence[Stamp | None]:
        return [None] * len(track.mask)


@register
class Dot(Agent):
    """A mark where the point is, the same on every body (EgoMimic, 2410.24221, draws a line)."""

    name, reads = DOT, BY_PAINTER | {"dot_radius"}
    COLOUR = (255, 0, 0)

    def __init__(self, settings: PaintSettings, size: int) -> None:
        self._radius = settings.dot_radius

    def stamps(self, track: Track, shown: Shown) -> Sequence[Stamp | None]:
        return [self._stamp(point, track.mask.shape[1:]) for point in track.point_px]

    def _stamp(self, point: NDArray[np.float32], shape: tuple[int, ...]) -> Stamp | None:
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        mask = np.hypot(columns - point[0], rows - point[1]) <= self._radius * min(shape)  # not known: nowhere
        return Stamp(np.broadcast_to(np.array(self.COLOUR, np.uint8), (*shape, 3)), mask) if mask.any() else None


def open_agent(settings: PaintSettings, size: int) -> Agent:
    """Raises ValueError for a name that no agent has, and as the agent's constructor."""
    if settings.agent not in AGENTS:
        raise ValueError(f"--agent '{settings.agent}': must be one of {', '.join(sorted(AGENTS))}")
    return AGENTS[settings.agent](settings, size)


@dataclass(frozen=True)
class Painted:
    """T frames with the new agent in them, and how each was made."""

    frames: NDArray[np.uint8]
    """[T, S, S, 3]."""
    hidden: NDArray[np.bool_]
    """[T, S, S]: where the old agent was taken for, grown by the margin."""
    before: NDArray[np.bool_]
    """[T, S, S]: of it, what was seen there before; the rest is inpainted."""
    stamps: Sequence[Stamp | None]
    """[T]."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[T, S, S]: the new agent's."""
        empty = np.zeros(self.hidden.shape[1:], bool)
        return np.stack([empty if stamp is None else stamp.mask for stamp in self.stamps])


class Painter:
    """Takes the agent out of frames, and puts another in."""

    def __init__(self, agent: Agent, settings: PaintSettings) -> None:
        self.agent, self._settings = agent, settings
        self.begin()

    def begin(self) -> None:
        """Another video: what was seen before is forgotten."""
        self._background = Background(remember=self._settings.background == "before")

    def paint(self, frames: NDArray[np.uint8], track: Track, shown: Shown | None = None) -> Painted:
        """The next frames [T, S, S, 3] of the video. Where the agent is not seen, nothing changes; where its pixels are known
        and its point is not, it is taken out and nobody put in.

        Raises ValueError where the track is of other frames.
        """
        if track.mask.shape != frames.shape[:3]:
            raise ValueError(
                f"a track of {_size(track.mask.shape)} for {_size(frames.shape)}: track the frames that are to be painted"
            )
        count = len(frames)
        shown = shown or Shown(np.arange(count, dtype=np.float64), np.full(count, np.nan))
        stamps = self.agent.stamps(track, shown)
        painted, hidden, before = [], [], []
        for image, mask, stamp in zip(frames, track.mask, stamps, strict=True):
            grown = grow(mask, self._settings.margin)
            filled = self._background.fill(image, grown)
            if stamp is not None:
                filled.image[stamp.mask] = stamp.image[stamp.mask]
            painted.append(filled.image)
            hidden.append(grown)
            before.append(filled.before)
        return Painted(np.stack(painted), np.stack(hidden), np.stack(before), stamps)


def view_of(agent: Agent, settings: PaintSettings) -> View | None:
    """What a picture that this agent and these settings paint is called, wherever it is kept; see `View.painted`."""
    return View.painted({**dataclasses.asdict(settings), "agent": agent.name, "agent_identity": agent.identity})


def painter_of(view: View, size: int = 0) -> Painter:
    """Paints what `view` says, as the pictures were that a policy learned from. Raises ValueError for an agent that is not
    known, or is not what it was."""
    background: Any = view.background
    scale: Any = view.scale or AS_CUT
    settings = PaintSettings(
        agent=view.agent,
        background=background,
        margin=view.margin,
        scale=scale,
        dot_radius=view.dot_radius or DOT_RADIUS,
    )
    agent = open_agent(settings, size)
    if agent.identity != view.identity:
        raise ValueError(
            f"agent '{view.agent}' is not what it was when the pictures were painted: bring back what it was"
        )
    return Painter(agent, settings)


def grow(mask: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """`mask` (bool [H, W]) wider by `margin` of its shorter side, by whole pixels."""
    radius = round(margin * min(mask.shape))
    if not radius or not mask.any():
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc), bool)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} frames of {shape[2]} x {shape[1]} pixels"
