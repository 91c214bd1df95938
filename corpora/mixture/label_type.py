"""What a label is: a class that says what was done between two moments, and the questions that every kind answers."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.parts import earlier_version
from corpora.episodes.parts import TABLE, ActionPart
from corpora.mixture.embodiments import NEW_EMBODIMENT
from corpora.mixture.labels import Labels, exchanged
from corpora.store.told import near

if TYPE_CHECKING:
    from corpora.clips.frames import ClipFrames

REPRESENTATIONS = ("absolute", "delta", "relative")
NORMALISATIONS = ("min_max", "mean_std", "q01_q99")
WITHIN_TEXT = "within_text"
OVER_CLIPS = "over_clips"
SHUFFLINGS = (OVER_CLIPS, WITHIN_TEXT)
"""Ways to permute labels, as a control."""


@dataclass(frozen=True)
class PolicyLimits:
    """What the numbers of datasets have to fit."""

    horizon: int = 16
    """Steps of a chunk."""
    max_action_dim: int = 32
    """Widest action."""
    max_state_dim: int = 64
    """Widest state."""
    future_s: float = 0.8
    """Seconds to the future that frames without a label are aligned with."""


@dataclass
class Count:
    """What was found of one dataset."""

    clips: int = 0
    frames: int = 0
    hours: float = 0.0
    samples: int = 0
    dims: str = ""
    """Of its states and actions, as people read it."""
    action_dim: int = 0
    """0 where there is no action, or it is not known."""
    faults: list[str] = field(default_factory=list)
    broken: bool = False
    """It could not be read; its fault gives the reason."""
    tiers: dict[str, int] = field(default_factory=dict)
    """Clips of each tier by their corpus; empty where it knows none."""

    def of_other_tiers(self, tier: str) -> str:
        """What a dataset that calls all of it `tier` must be told; "": nothing."""
        others = [f"{count} of tier {name}" for name, count in sorted(self.tiers.items()) if name != tier]
        return f"of its {self.clips} clips {' and '.join(others)} by the corpus, not {tier}" if others else ""


@dataclass(frozen=True)
class Label(ABC):  # noqa: B024 - what is abstract depends on what it is a label of
    """One kind of label. A subclass with `words` is found by them in a pyramid file; its fields are its keys there."""

    words: ClassVar[tuple[str, ...]] = ("",)
    """What it is called in a pyramid file, the first in messages."""
    title: ClassVar[str] = ""
    """What a table of training data calls its kind."""
    embodiment: ClassVar[str] = NEW_EMBODIMENT
    """Of a dataset that names none."""
    acts: ClassVar[bool] = True
    """Whether there is an action to learn."""
    of: ClassVar[tuple[str, ...]] = ("dataset", "corpus")
    """What it can be a label of, by key in the file: a dataset of episodes, a corpus of clips."""
    folder_key: ClassVar[str] = ""
    """What the file calls the folder that holds the labels; "": there is none."""
    marker: ClassVar[str] = ""
    """The file of that folder that is written last."""
    job: ClassVar[str] = ""
    """Which writes it."""

    @classmethod
    def toml_keys(cls) -> dict[str, tuple[str, str]]:
        """Key of the pyramid file -> the field that it is, and what it holds: str, int, float, bool, path or tables."""
        return {}

    def faults(self) -> list[str]:
        """What is wrong with it, all at once."""
        return []

    def count(self, corpus: Corpus, found: Count, embodiment: str, limits: PolicyLimits) -> None:
        """Adds samples, dimensions and faults of these labels of `corpus` to `found`; no image is decoded. Raises
        ValueError where they cannot be read."""
        raise AssertionError(f"{self.words[0]} is no label of clips")

    def read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels | None:
        """The labels of these clips in chunks of at most `horizon` steps; None: every frame is a sample. Raises ValueError
        where labels and clips do not fit each other."""
        raise AssertionError(f"{self.words[0]} is no label of clips")

    def order(self, runs: NDArray[np.int64], clips: ClipFrames) -> NDArray[np.int64] | None:
        """As a control: for each sample, of the clip `runs` [N], the number of another one, of another clip, whose label it has.
        None: its own. Raises ValueError where there are not enough clips to exchange with."""
        return None

    def parts_made(self) -> list[tuple[str, bytes, int]]:
        """Name, what made it, and rows of each part that they lie in. Raises ValueError for one that cannot be read."""
        return []

    @property
    def verdict(self) -> str:
        """What giza report said of them; "" of labels that it does not judge."""
        return ""

    @property
    def untrusted(self) -> bool:
        """Whether that was not to trust them."""
        return False

    @property
    def description(self) -> str:
        """What a table of training data calls it."""
        return self.title

    def robot(self) -> str:
        """The embodiment that it is of, whatever the dataset says; "": any. Raises ValueError where it cannot be read."""
        return ""

    @property
    def fitted_as(self) -> Actions:
        """How an action space of these numbers is fitted."""
        return Actions()

    def shuffled(self, seed: int, *, within_text: bool = False) -> Self:
        """The control: the same labels, each at a frame of another clip, `within_text`: of the same text. Raises ValueError
        where there are none of clips."""
        raise ValueError(f"label '{self.words[0]}' is none of clips: only those can be permuted over them")


@dataclass(frozen=True)
class Actions(Label):
    """A robot's own actions."""

    words: ClassVar[tuple[str, ...]] = ("action", "actions")
    title: ClassVar = "actions"
    of: ClassVar = ("dataset",)

    representation: str = ""
    """absolute, delta or relative; not said: as other data of the embodiment, else absolute."""
    normalisation: str = ""
    """Of states, and of actions that no part says otherwise of: min_max, mean_std or q01_q99; not said: as other data of the
    embodiment, else q01_q99."""
    parts: tuple[ActionPart, ...] = ()
    """Empty: the action is one part, of `representation` and `normalisation`."""

    @classmethod
    def toml_keys(cls) -> dict[str, tuple[str, str]]:
        plain = {item.name: (item.name, str(item.type)) for item in fields(cls) if item.name != "parts"}
        return {**plain, TABLE: ("parts", "tables")}

    def faults(self) -> list[str]:
        both = self.parts and self.representation
        found = ["representation beside action_parts: give each part its own"] if both else []
        return found + [
            f"{key} '{value}' is none of {', '.join(known)}{near(value, known)}"
            for key, value, known in (
                ("representation", self.representation, REPRESENTATIONS),
                ("normalisation", self.normalisation, NORMALISATIONS),
            )
            if value and value not in known
        ]

    @property
    def fitted_as(self) -> Actions:
        return self


class Permutable(Label):
    """Labels that a control exchanges between clips: they then say nothing of their frames, and all else stays."""

    shuffle_seed: int | None
    shuffling: str | None

    def __post_init__(self) -> None:
        if self.shuffling and self.shuffle_seed is None:
            object.__setattr__(self, "shuffle_seed", 0)
        if self.shuffling == OVER_CLIPS:
            object.__setattr__(self, "shuffling", None)

    @classmethod
    def toml_keys(cls) -> dict[str, tuple[str, str]]:
        return {"shuffle_latents_seed": ("shuffle_seed", "int"), "shuffled": ("shuffling", "str")}

    def faults(self) -> list[str]:
        if not self.shuffling or self.shuffling in SHUFFLINGS:
            return []
        near_to = near(self.shuffling, SHUFFLINGS)
        return [f"shuffled '{self.shuffling}' is none of {', '.join(SHUFFLINGS)}{near_to}"]

    @property
    def description(self) -> str:
        if self.shuffle_seed is None:
            return self.title
        return f"{self.title} shuffled" + (" within each text" if self.shuffling == WITHIN_TEXT else "")

    def shuffled(self, seed: int, *, within_text: bool = False) -> Self:
        control: dict[str, Any] = {"shuffle_seed": seed, "shuffling": WITHIN_TEXT if within_text else None}
        return replace(self, **control)

    def order(self, runs: NDArray[np.int64], clips: ClipFrames) -> NDArray[np.int64] | None:
        if self.shuffle_seed is None:
            return None
        texts = [row.text for row in clips.rows] if self.shuffling == WITHIN_TEXT else None
        return exchanged(runs, self.shuffle_seed, texts)


def folder_faults(key: str, folder: Path, markers: tuple[str, ...], otherwise: str = "") -> list[str]:
    """What is wrong with a folder that should hold one of `markers`."""
    if not folder.exists():
        return [f"{key} '{folder}': no such folder"]
    if not any((folder / marker).exists() for marker in markers):
        if said := earlier_version(folder, markers[0]):
            return [f"{key} '{folder}' {said}"]
        return [f"{key} '{folder}' lacks {markers[0]}{otherwise}: it is not finished, or another kind of folder"]
    return []
