"""Episodes of a robot as a policy learns from them: which are chosen, what each holds, and all of their rows together.

episodes = open_episodes("recordings/pick", EpisodeSelection(demos=3, cameras=("head",)))   # corpora.episodes.opening
for episode in episodes.episodes:
    print(episode.index, episode.instruction, episode.state.shape, episode.videos)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.modality import Modality, ModalityPart, none_known
from corpora.episodes.selection import EpisodeSelection
from corpora.store.told import faults_told, listed
from corpora.video.view import View

if TYPE_CHECKING:
    from corpora.store.frames import FrameFault, Images, Progress, Valid

PREVIOUS = "previous."
"""Begins the names of the last action in a state."""
LEAD = "lead."
"""Begins the names of the offset from the state to the last action."""


@dataclass(frozen=True)
class VideoSpan:
    """The stretch of a video file that shows an episode."""

    path: Path
    from_s: float
    """Time in the file of the episode's beginning, counted from the file's first frame."""
    to_s: float | None
    """None: to the end of the file."""


@dataclass(frozen=True)
class Episode:
    """One demonstration; N rows, Ds and Da dimensions of the chosen parts."""

    index: int
    """As the dataset numbers it."""
    group: str
    """The unit of hold-out, "<dataset>/episode_000003"."""
    instructions: Sequence[str]
    """[N], one a row; "" where there is none."""
    t_s: NDArray[np.float64]
    """[N], ascending, seconds from the beginning of its videos."""
    state: NDArray[np.float32] | None
    """[N, Ds]."""
    action: NDArray[np.float32] | None
    """[N, Da]."""
    videos: dict[str, VideoSpan] = field(default_factory=dict)
    """Camera -> where its images lie; empty where they lie in the records (RLDS)."""
    success: bool | None = None
    """Whether any row says so in `next.success`; None where the dataset has no such column."""
    idle: int = 0
    """Rows at its beginning in which nothing moves yet; see `with_idle`."""
    start: int = 0
    """Its rows are [start, stop) of the arrays of `Episodes`."""

    @property
    def stop(self) -> int:
        return self.start + len(self.t_s)

    @property
    def instruction(self) -> str:
        """At its beginning."""
        return self.instructions[0]


class ImageReader(Protocol):
    """How the images of a dataset's episodes are read."""

    def fingerprint(self, episodes: Episodes) -> str:
        """Changes with the images and with the rows' times, not with the folder in which the dataset lies."""

    def fill(self, episodes: Episodes, images: Images, valid: Valid, progress: Progress | None) -> list[FrameFault]:
        """Decodes all rows and cameras to `images` [R, V, S, S, 3], marks them in `valid` [R, V], and returns what went
        wrong."""


@dataclass
class Episodes:
    """Some episodes of a dataset, and their R rows one after the other."""

    root: Path
    name: str
    fps: float
    """Rows a second."""
    robot_type: str
    cameras: tuple[str, ...]
    """Image features."""
    modality: Modality
    state_parts: tuple[ModalityPart, ...]
    action_parts: tuple[ModalityPart, ...]
    episodes: list[Episode]
    faults: list[tuple[int, str]]
    """(index, reason) of the episodes that were left out."""
    reader: ImageReader
    state_names: tuple[str, ...]
    """One for each of the Ds dimensions."""
    action_names: tuple[str, ...]
    """One for each of the Da dimensions."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Camera -> how its pictures were painted; others are as the camera saw them."""

    t_s: NDArray[np.float64] = field(init=False)
    """[R]."""
    state: NDArray[np.float32] | None = field(init=False)
    """[R, Ds]; None where the dataset has no state."""
    action: NDArray[np.float32] | None = field(init=False)
    """[R, Da]; None where the dataset has no actions."""
    instruction: NDArray[np.int32] = field(init=False)
    """[R], indices into `instructions`."""
    instructions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.episodes:
            raise ValueError(f"dataset '{self.root}' has no usable episode: {self._reasons() or 'it lists none'}")
        self.t_s = np.concatenate([episode.t_s for episode in self.episodes])
        self.state = all_rows([episode.state for episode in self.episodes])
        self.action = all_rows([episode.action for episode in self.episodes])
        numbers: dict[str, int] = {}
        of_row = [numbers.setdefault(text, len(numbers)) for episode in self.episodes for text in episode.instructions]
        self.instruction, self.instructions = np.asarray(of_row, np.int32), tuple(numbers)
        start, placed = 0, []
        for episode in self.episodes:
            rows = slice(start, start + len(episode.t_s))
            state, action = (None if values is None else values[rows] for values in (self.state, self.action))
            placed.append(dataclasses.replace(episode, t_s=self.t_s[rows], state=state, action=action, start=start))
            start = rows.stop
        self.episodes = placed

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def indices(self) -> list[int]:
        """Of the episodes, in order."""
        return [episode.index for episode in self.episodes]

    @property
    def left_out(self) -> str:
        """How many episodes are, and why; "" where none is."""
        if not self.faults:
            return ""
        return f"{len(self.faults)} of {len(self) + len(self.faults)} episodes are left out: {self._reasons()}"

    def _reasons(self) -> str:
        return faults_told((f"episode {index}", reason) for index, reason in self.faults)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the images and with the rows' times, not with the folder in which the dataset lies."""
        return self.reader.fingerprint(self)

    def choose(self, selection: EpisodeSelection) -> list[int]:
        """Indices of the episodes that `selection` leaves. Raises ValueError where none is left."""
        usable = [episode for episode in self.episodes if selection.failures or episode.success is not False]
        return selection.choose([episode.index for episode in usable], [episode.instruction for episode in usable])

    def take(self, indices: Iterable[int]) -> Episodes:
        """These episodes alone, in the dataset's order, with their faults. Raises ValueError for an index that the dataset
        does not list, and where none of them is usable."""
        wanted = {int(index) for index in indices}
        lacking = sorted(wanted - set(self.indices) - {index for index, _ in self.faults})
        if lacking:
            raise ValueError(
                f"episodes {listed(lacking)}: dataset '{self.name}' does not have them; it has {len(self) + len(self.faults)}"
            )
        return dataclasses.replace(
            self,
            episodes=[episode for episode in self.episodes if episode.index in wanted],
            faults=[(index, reason) for index, reason in self.faults if index in wanted],
        )

    def seen_by(self, cameras: Sequence[str]) -> Episodes:
        """The same, of these of its cameras alone."""
        assert set(cameras) <= set(self.cameras)
        episodes = [
            dataclasses.replace(each, videos={key: span for key, span in each.videos.items() if key in cameras})
            for each in self.episodes
        ]
        return dataclasses.replace(self, cameras=tuple(cameras), episodes=episodes)

    @property
    def no_action(self) -> str:
        """What to tell whoever needs actions where there are none."""
        return none_known("action", self.name, self.modality.columns)

    def with_previous_action(self) -> Episodes:
        """The same, with the last action in the state: see `previous_action`. Raises ValueError without actions."""
        if self.action is None:
            raise ValueError(f"previous_action has nothing to remember: {self.no_action}")
        episodes, names = [], self.state_names
        for episode in self.episodes:
            assert episode.action is not None
            state, names = previous_action(episode.state, episode.action, self.state_names, self.action_names)
            episodes.append(dataclasses.replace(episode, state=state))
        return dataclasses.replace(self, episodes=episodes, state_names=names)


def previous_action(
    state: NDArray[np.float32] | None,
    action: NDArray[np.float32],
    state_names: Sequence[str],
    action_names: Sequence[str],
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """An episode's proprioceptive states [N, Ds] with the last action, and the names of the new states' dimensions.

    Appended are the offset from the state to the last action (for names that both have; it is small beside either, and a
    network would have to learn to subtract them) and the last action itself. The first row has none: the state stands in
    where it has the same name, else 0.
    """
    before = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
    if state is None:
        return before, tuple(f"{PREVIOUS}{name}" for name in action_names)
    names = [name for name in action_names if name in state_names]
    in_state = [list(state_names).index(name) for name in names]
    in_action = [list(action_names).index(name) for name in names]
    before[0, in_action] = state[0, in_state]
    lead = before[:, in_action] - state[:, in_state]
    leads = tuple(f"{LEAD}{name}" for name in names)
    return np.concatenate([state, lead, before], 1), (
        *state_names,
        *leads,
        *(f"{PREVIOUS}{name}" for name in action_names),
    )


def all_rows(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """One part after the other; None where none has rows of its kind."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
