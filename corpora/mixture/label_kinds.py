"""How a dataset says what was done between two moments: a label is a class, found by its words in the pyramid file.

Actions            a robot's own, recorded beside the images
Latents            latent actions that `giza extract` mined out of clips
PseudoActions      a robot's actions that an inverse dynamics model (`giza label`) read off clips
TrackActions       a robot's actions for how the tool of a track moves (`giza label --tracks`), gripper not known
Unlabelled         nothing: alignment with the future only (FLARE)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from corpora.clips.corpus import Corpus
from corpora.clips.parts import PartKey, read_footers
from corpora.episodes.parts import TABLE, ActionPart
from corpora.mixture.labels import EmbodimentFacts, Labels, exchanged, list_width, tokens_of_latents
from corpora.mixture.pseudo_actions import BY_IMAGES, BY_TRACKS, PseudoActionFacts, read_facts
from corpora.store.told import nearest

if TYPE_CHECKING:
    from corpora.clips.frames import ClipFrames

REPRESENTATIONS = ("absolute", "delta", "relative")
NORMALISATIONS = ("min_max", "mean_std", "q01_q99")
NEW_EMBODIMENT = "new_embodiment"
LATENT = "latent"
"""Embodiment of latent actions."""
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


class _Permutable(Label):
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
        return replace(self, shuffle_seed=seed, shuffling=WITHIN_TEXT if within_text else None)

    def order(self, runs: NDArray[np.int64], clips: ClipFrames) -> NDArray[np.int64] | None:
        if self.shuffle_seed is None:
            return None
        texts = [row.text for row in clips.rows] if self.shuffling == WITHIN_TEXT else None
        return exchanged(runs, self.shuffle_seed, texts)


@dataclass(frozen=True)
class Unlabelled(_Permutable):
    """Frames that a policy only aligns its future tokens with."""

    words: ClassVar[tuple[str, ...]] = ("none", "unlabelled")
    title: ClassVar = "FLARE"
    acts: ClassVar = False

    shuffle_seed: int | None = None
    """The control: what follows is that of frames of other clips."""
    shuffling: str | None = None
    """Over which clips, as for written labels."""

    def count(self, corpus: Corpus, found: Count, embodiment: str, limits: PolicyLimits) -> None:
        shown = [row.frames * max(0.0, 1 - limits.future_s / row.seconds) for row in corpus.clips if row.seconds > 0]
        found.samples = int(np.sum(np.floor(shown)))  # frames that something follows after future_s

    def read(self, clips: ClipFrames, embodiment: str, horizon: int) -> None:
        return None


@dataclass(frozen=True)
class _Written(_Permutable):
    """Labels that a job of giza wrote to a folder of its own, for the clips of one corpus."""

    of: ClassVar = ("corpus",)

    folder: Path = Path()
    """Where they lie."""
    shuffle_seed: int | None = None
    """The control: they are permuted over clips."""
    shuffling: str | None = None
    """Over which clips: within_text (those of the same text), or None, which is all; over_clips is another word for it."""

    @classmethod
    def toml_keys(cls) -> dict[str, tuple[str, str]]:
        return {cls.folder_key: ("folder", "path"), **super().toml_keys()}

    def faults(self) -> list[str]:
        found = super().faults()
        if self.folder == Path():
            return [*found, f"label '{self.words[0]}' needs '{self.folder_key}'"]
        return found + folder_faults(self.folder_key, self.folder, (self.marker,))

    def read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels:
        if fault := self._of_another(clips.identity):
            raise ValueError(fault)
        labels = self._read(clips, embodiment, horizon)
        order = self.order(labels.runs, clips)
        return labels if order is None else replace(labels, values=labels.values[order])

    @abstractmethod
    def _read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels:
        """In their own order."""

    @abstractmethod
    def _made_of(self) -> set[str]:
        """Identities of the corpora whose clips they are of."""

    def _of_another(self, corpus: str) -> str:
        """What is wrong where they are not of the corpus of this identity: clips that were painted, or ingested at another
        size, have the same names and show something else."""
        if self._made_of() <= {corpus}:
            return ""
        return (
            f"{self.folder_key} '{self.folder}' are of another corpus than the clips beside them: make them of that one with "
            f"giza {self.job}"
        )


@dataclass(frozen=True)
class Latents(_Written):
    """Latent actions of `giza extract`, before quantisation: the tokens of one are the steps of a chunk."""

    words: ClassVar[tuple[str, ...]] = ("latent", "latents")
    title: ClassVar = "latents"
    embodiment: ClassVar = LATENT
    folder_key: ClassVar = "latents"
    marker: ClassVar = "extract.json"
    job: ClassVar = "extract"

    @property
    def fitted_as(self) -> Actions:
        return Actions(normalisation="mean_std")

    def count(self, corpus: Corpus, found: Count, embodiment: str, limits: PolicyLimits) -> None:
        if fault := self._of_another(corpus.identity):
            found.faults.append(fault)
            return
        parts = read_footers(self.folder)
        found.samples = sum(part.rows for part in parts)
        width = list_width([part.path for part in parts if part.rows], "latent")
        try:
            tokens = tokens_of_latents(self.folder)
        except ValueError:  # training says it where it cannot do without
            found.dims = f"latent {width}"
            return
        found.action_dim = width // tokens
        found.dims = f"{tokens} tokens of {found.action_dim}"
        if width % tokens:
            found.faults.append(f"latents of {width} numbers do not divide into {tokens} tokens; extract them again")
        elif tokens > limits.horizon:
            found.faults.append(f"latents of {tokens} tokens, the policy's chunks have {limits.horizon} steps")
        elif found.action_dim > limits.max_action_dim:
            found.faults.append(
                f"latents of {found.action_dim} dimensions, the policy takes at most {limits.max_action_dim}; train a "
                "latent action model of fewer, or choose a wider recipe"
            )

    def _made_of(self) -> set[str]:
        return {part.key(PartKey, "latents").corpus for part in read_footers(self.folder)}

    def _read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels:
        made_by = {
            f"model {part.key(PartKey, 'latents').model_hash}, gap {part.record['key'].get('gap_s', '')} s"
            for part in read_footers(self.folder)
        }
        facts = EmbodimentFacts(clips.table.cameras, made_by="; ".join(sorted(made_by)))
        tokens = tokens_of_latents(self.folder)
        return Labels.read(self.folder, clips, column="latent", steps=tokens, job="extract", facts=facts)


@dataclass(frozen=True)
class PseudoActions(_Written):
    """Chunks of a robot's actions by `giza label`, without a state; of longer ones the first steps are taken."""

    words: ClassVar[tuple[str, ...]] = (BY_IMAGES, "pseudo-actions")
    title: ClassVar = "inverse-dynamics"
    folder_key: ClassVar = "pseudo_actions"
    marker: ClassVar = "label.json"
    job: ClassVar = "label"

    @property
    def facts(self) -> PseudoActionFacts:
        """What label.json says. Raises ValueError where the folder holds no finished labels of this kind."""
        facts = read_facts(self.folder)
        if facts.by != self.words[0]:
            raise ValueError(
                f"'{self.folder}' holds labels of the kind '{facts.by}', not '{self.words[0]}': say label = \"{facts.by}\""
            )
        return facts

    def robot(self) -> str:
        return self.facts.embodiment

    def count(self, corpus: Corpus, found: Count, embodiment: str, limits: PolicyLimits) -> None:
        if fault := self._of_another(corpus.identity):
            found.faults.append(fault)
            return
        facts = self.facts
        found.samples = sum(part.rows for part in read_footers(self.folder))
        found.action_dim = len(facts.robot.action_names)
        found.dims = f"{facts.horizon} steps of {found.action_dim}"
        if facts.unknown:
            found.dims += f", {', '.join(facts.unknown)} not known"
        if found.action_dim > limits.max_action_dim:
            found.faults.append(
                f"actions of {found.action_dim} dimensions, the policy takes at most {limits.max_action_dim}"
            )
        if facts.embodiment != embodiment:
            found.faults.append(
                f"pseudo-actions of '{facts.embodiment}', but the embodiment is '{embodiment}'; give the same to both"
            )

    def _made_of(self) -> set[str]:
        return {self.facts.corpus}

    def _read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels:
        facts = self.facts
        if embodiment != facts.embodiment:
            raise ValueError(
                f"the pseudo-actions in '{self.folder}' are those of '{facts.embodiment}', not of '{embodiment}'; give "
                f"that embodiment, or label with --embodiment {embodiment}"
            )
        found = Labels.read(self.folder, clips, column="action", steps=facts.horizon, job="label", facts=facts.robot)
        dim = len(facts.robot.action_names)
        if len(found.rows) and found.values.shape[2] != dim:
            raise ValueError(
                f"'{self.folder}' holds actions of {found.values.shape[2]} dimensions, but names {dim}: label again"
            )
        return replace(found, values=found.values[:, :horizon], known=facts.known)


@dataclass(frozen=True)
class TrackActions(PseudoActions):
    """As pseudo-actions, by `giza label --tracks`: the robot's actions for how the tool of a track moves."""

    words: ClassVar[tuple[str, ...]] = (BY_TRACKS,)
    title: ClassVar = "track"


LABELS: tuple[type[Label], ...] = (Actions, Latents, PseudoActions, TrackActions, Unlabelled)
"""As pyramid files name them."""


def near(word: str, known: tuple[str, ...]) -> str:
    """(did you mean '...'?), where a known word is near."""
    found = nearest(word, known)
    return f" (did you mean '{found}'?)" if found else ""


def folder_faults(key: str, folder: Path, markers: tuple[str, ...], otherwise: str = "") -> list[str]:
    """What is wrong with a folder that should hold one of `markers`."""
    if not folder.exists():
        return [f"{key} '{folder}': no such folder"]
    if not any((folder / marker).exists() for marker in markers):
        return [f"{key} '{folder}' lacks {markers[0]}{otherwise}: it is not finished, or another kind of folder"]
    return []
