"""One dataset of a mixture: where it lies, its tier, weight and label."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from corpora.clips.manifest import TIERS
from corpora.episodes.episode import ALL_DEMONSTRATIONS, EpisodeSelection
from corpora.episodes.opening import is_dataset
from corpora.mixture.label_kinds import Actions, Label, folder_faults, near

OWN_ACTIONS = Actions()


@dataclass(frozen=True)
class EpisodesAt:
    """Episodes of a robot: a LeRobot dataset, or an RLDS one (the folder of its features.json)."""

    key: ClassVar[str] = "dataset"
    """What the file calls it."""

    folder: Path
    selection: EpisodeSelection = ALL_DEMONSTRATIONS

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        if is_dataset(self.folder):
            return []
        rlds = " (RLDS: features.json and dataset_info.json)"
        return folder_faults(self.key, self.folder, ("meta/info.json",), rlds)


@dataclass(frozen=True)
class ClipsAt:
    """Clips: a corpus of `giza ingest`."""

    key: ClassVar[str] = "corpus"

    corpus: Path

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        return folder_faults(self.key, self.corpus, ("manifest.parquet",))


@dataclass(frozen=True)
class Planned:
    """Nothing yet: so much is to be drawn."""

    hours: float


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
    data: EpisodesAt | ClipsAt | Planned
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
        return isinstance(self.data, Planned)

    def faults(self, embodiments: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with it, all at once. `embodiments`: those that are known, of which another may be a misspelling; empty:
        any name is right."""
        found = []
        if self.tier not in TIERS:
            found.append(f"tier '{self.tier}' is none of {', '.join(TIERS)}{near(self.tier, TIERS)}")
        for key, value in (("weight", self.weight), ("align", self.align)):
            if not (math.isfinite(value) and value >= 0):
                found.append(f"{key} {value} must be 0 or more")
        if self.embodiment not in embodiments and (meant := near(self.embodiment, embodiments)):
            found.append(f"unknown embodiment '{self.embodiment}'{meant} Otherwise give --any-embodiment")
        if isinstance(self.data, Planned):
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
