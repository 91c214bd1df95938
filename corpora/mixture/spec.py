"""One dataset of a mixture: where it lies, its tier, weight and label; and the samples that it opens to.

    ... o-----o-----o-----o-----o-----o-----o ...     rows of one episode, or frames of one clip
        |     |     |  action chunk   |     |
      history now   +--k=0--k=1--k=2--+   future      all by time in seconds, none beyond the episode

Samples are neither normalised nor padded. Where data can lie is a class each: EpisodesAt, ClipsAt, Planned.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from corpora.clips.manifest import TIERS
from corpora.mixture.label_type import Actions, Count, Label, PolicyLimits
from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.views import Window
from corpora.store.frames import Progress
from corpora.store.told import misspelt, near

log = logging.getLogger(__name__)

OWN_ACTIONS = Actions()


@dataclass(frozen=True)
class Sample:
    """One observation and what was done, or seen, after it. V cameras, T moments, S pixels, H steps."""

    images: NDArray[np.uint8]
    """[V, T, S, S, 3], oldest first; zeros where the mask is False."""
    image_mask: NDArray[np.bool_]
    """[V, T]; False where a camera failed, or before the beginning."""
    instruction: str
    """"" where there is none."""
    state: NDArray[np.float32] | None
    """[Ds], proprioception."""
    action: NDArray[np.float32] | None
    """[H, Da]; past the end the last action is repeated."""
    action_mask: NDArray[np.bool_]
    """[H]; False past the end, and throughout where there are no actions."""
    future: NDArray[np.uint8] | None
    """[V, S, S, 3]; None where it is not asked for, or lies past the end."""
    action_known: NDArray[np.bool_] | None = None
    """[Da]: dimensions of the action that are known, the same in all samples of a dataset, or [H, Da]; None: all."""
    before: NDArray[np.uint8] | None = None
    """[V, S, S, 3]: what the change to `future` is counted from; None: the newest of `images`. As a control the future is that
    of another clip, and this with it."""
    from_origin: bool = False
    """The chunk begins at the origin, unturned: what is relative is counted from there. There is no state beside it."""


@dataclass(frozen=True)
class Numbers:
    """M samples without their images."""

    states: NDArray[np.float32] | None
    """[M, Ds]."""
    chunks: NDArray[np.float32]
    """[M, H, Da]; of labels that are shorter than a chunk, only their own steps."""
    mask: NDArray[np.bool_]
    """[M, H]."""


@dataclass(frozen=True)
class Frames:
    """N rows of episodes, each once."""

    states: NDArray[np.float32] | None
    """[N, Ds]."""
    actions: NDArray[np.float32]
    """[N, Da]."""
    moved: NDArray[np.float32] | None
    """[N, Ds]: how the state moves until the next row; NaN at an episode's end. None without states."""


class SampleDataset(Protocol):
    """A set of samples of one tier and one embodiment."""

    spec: DatasetSpec
    cameras: tuple[str, ...]
    """[V]."""
    groups: list[str]
    """Episode or source video of each sample: the unit of hold-out."""
    texts: frozenset[str]
    """Instructions of its samples."""
    idle_rows: int
    """Moments that are no samples, because nothing moves yet in them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of [0, len)."""

    def numbers(self, indices: Sequence[int]) -> Numbers:
        """Of these samples. Raises ValueError where there are no actions."""

    def frames(self, indices: Sequence[int]) -> Frames:
        """The rows of the episodes of these samples, for statistics: chunks overlap, and would count most rows many times over.
        Raises ValueError where there are no actions."""

    def embodiment(self) -> EmbodimentFacts | None:
        """Whose actions these are; None: there are none to learn."""

    def named(self, groups: Iterable[str]) -> tuple[str, ...]:
        """These of its groups, as the record of a training names them."""

    def at_step(self, step_s: float) -> SampleDataset:
        """The same, the steps of its chunks so far apart. Raises ValueError where its actions do not say what that is."""


@dataclass(frozen=True)
class Opening:
    """What samples are made of, and which are held out."""

    window: Window
    image_size: int
    seed: int
    held_out: float
    """Share of the episodes or videos that is held out; of a dataset whose episodes are chosen, some of the others."""
    stride_s: float
    """Frames without labels begin samples at least this far apart."""
    cache: Path | None
    held_out_episodes: str = ""
    """Instead of a share: "0:20" or "0,3,5"."""
    progress: Progress | None = None


@dataclass(frozen=True)
class Origin:
    """Which data samples came from, as the record of a training has it."""

    kind: Literal["episodes", "clips"]
    folder: str
    """Its name."""
    fingerprint: str
    """Of a dataset's metadata, or of a corpus."""
    cameras: tuple[str, ...] = ()
    """As they were chosen of a dataset's columns; empty: all."""
    state: tuple[str, ...] = ()
    action: tuple[str, ...] = ()


class Data(ABC):
    """Where the data of a dataset lie: a subclass for each kind, in the file of the samples that it opens to."""

    key: ClassVar[str]
    """What a pyramid file calls it."""
    planned: ClassVar[bool] = False
    """Only drawn: hours, no data."""
    of_clips: ClassVar[bool] = False
    """Video alone, without states and actions of its own."""

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        return []

    @abstractmethod
    def count(self, label: Label, embodiment: str, limits: PolicyLimits) -> Count:
        """What there is of it; no image is decoded. Raises ValueError where it cannot be read."""

    @abstractmethod
    def open(self, spec: DatasetSpec, opening: Opening) -> tuple[SampleDataset, set[str]]:
        """The samples, and the groups to hold out among them. Raises ValueError where there are none."""

    def fingerprint(self, label: Label) -> str:
        """Of its metadata and of what made its labels, wherever they lie. Raises ValueError where it cannot be read."""
        raise AssertionError(f"'{self.key}' has no data")

    def contents_fingerprint(self) -> str:
        """Of its rows and videos; "": they do not change under one `fingerprint`, or there are none."""
        return ""

    def origin(self) -> Origin:
        """Of the samples that it opened to."""
        raise AssertionError(f"'{self.key}' has no data")


@dataclass(frozen=True)
class Planned(Data):
    """Nothing yet: so much is to be drawn."""

    key: ClassVar[str] = "hours"
    planned: ClassVar[bool] = True

    hours: float

    def count(self, label: Label, embodiment: str, limits: PolicyLimits) -> Count:
        """The hours alone."""
        return Count(hours=self.hours)

    def open(self, spec: DatasetSpec, opening: Opening) -> tuple[SampleDataset, set[str]]:
        """Raises ValueError."""
        raise ValueError("it is only drawn: give it data, or weight = 0")


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a mixture.

    DatasetSpec("hands", "human", ClipsAt(Path("corpus")), Latents(Path("latents")), weight=2)
    DatasetSpec("demos", "robot", EpisodesAt(Path("pick"), EpisodeSelection(demos=3)), embodiment="franka")
    """

    name: str
    """Unique in its mixture."""
    tier: str
    """human, synthetic, neural or robot."""
    data: Data
    label: Label = OWN_ACTIONS
    weight: float = 1.0
    """Share in the mixture, of any sum; 0 leaves the dataset out."""
    align: float = 1.0
    """Of FLARE's loss on its samples, in a training that has one."""
    embodiment: str = ""
    """Of the policy; "" becomes `latent` for latents, `new_embodiment` for all others."""
    licence: str = ""
    """Of the data."""
    source: str = ""
    """Where a dataset that is only drawn comes from."""

    def __post_init__(self) -> None:
        if not self.embodiment:
            object.__setattr__(self, "embodiment", self.label.embodiment)

    @property
    def planned(self) -> bool:
        """Only drawn: hours, no data."""
        return self.data.planned

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """A ValueError within names the dataset."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"dataset '{self.name}': {error}") from error

    def warn(self, said: str) -> None:
        """Says what is wrong with a part of it; "": nothing."""
        if said:
            log.warning("dataset '%s': %s", self.name, said)

    def faults(self, embodiments: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with it, all at once. `embodiments`: those that are known, of which another may be a misspelling; empty:
        any name is right."""
        found = []
        if self.tier not in TIERS:
            found.append(f"tier '{self.tier}' is none of {', '.join(TIERS)}{near(self.tier, TIERS)}")
        for key, value in (("weight", self.weight), ("align", self.align)):
            if not (math.isfinite(value) and value >= 0):
                found.append(f"{key} {value} must be 0 or more")
        if self.embodiment not in embodiments and (meant := misspelt(self.embodiment, embodiments)):
            found.append(f"unknown embodiment '{self.embodiment}'{meant} Otherwise give --any-embodiment")
        if self.planned:
            return found
        if self.data.key not in self.label.of:
            found.append(f"label '{self.label.words[0]}' needs '{self.label.of[0]}'")
        return [*found, *self.data.faults(), *self.label.faults()]

    def labelled(self, label: Label) -> DatasetSpec:
        """The same data under another label. Pseudo-actions bring their robot's embodiment; else, where none was named, it is
        that label's. Raises ValueError for pseudo-actions that are not finished."""
        named = label.robot() or ("" if self.embodiment == self.label.embodiment else self.embodiment)
        return dataclasses.replace(self, label=label, embodiment=named)

    def to_json(self, relative_to: Path | None = None) -> dict[str, Any]:
        """All that decides its samples, flat; paths are relative to a folder where one is given."""

        def plain(value: Any) -> Any:
            if isinstance(value, Path):
                return str(
                    value
                    if relative_to is None or not value.is_relative_to(relative_to)
                    else value.relative_to(relative_to)
                )
            if dataclasses.is_dataclass(value):
                return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        return {**plain(self), "label": {"kind": self.label.words[0], **plain(self.label)}}
