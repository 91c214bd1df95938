"""How a dataset says what was done between two moments: a label is a class, found by its words in the pyramid file.

Actions            a robot's own, recorded beside the images
Latents            latent actions that `giza extract` mined out of clips
PseudoActions      a robot's actions that an inverse dynamics model (`giza label`) read off clips
TrackActions       a robot's actions for how the tool of a track moves (`giza label --tracks`), gripper not known
HandActions        how a hand moves and opens, as a robot's relative chunks (`giza label --tracks --hand`)
Unlabelled         nothing: what is seen next is all there is to learn (FLARE, head world_action)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corpora.clips.corpus import Corpus
from corpora.clips.parts import PartKey, read_footers
from corpora.mixture.embodiments import LATENT
from corpora.mixture.judged import NEVER, judged
from corpora.mixture.label_type import Actions, Count, Label, Permutable, PolicyLimits, folder_faults
from corpora.mixture.labels import EXTRACTED, EmbodimentFacts, Labels, held, list_width, tokens_of_latents
from corpora.mixture.pseudo_actions import BY_HANDS, BY_IMAGES, BY_TRACKS, SUMMARY, PseudoActionFacts, read_facts

if TYPE_CHECKING:
    from corpora.clips.frames import ClipFrames


@dataclass(frozen=True)
class Unlabelled(Permutable):
    """Frames of which a policy only learns what is seen next."""

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
class _Written(Permutable):
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

    def parts_made(self) -> list[tuple[str, bytes, int]]:
        return [(part.path.name, part.made, part.rows) for part in read_footers(self.folder)]

    def read(self, clips: ClipFrames, embodiment: str, horizon: int) -> Labels:
        if fault := self._of_another(clips.identity):
            raise ValueError(fault)
        labels = self._read(clips, embodiment, horizon)
        order = self.order(labels.runs, clips)
        return labels if order is None else labels.exchanged(order)

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
    marker: ClassVar = EXTRACTED
    job: ClassVar = "extract"

    @property
    def fitted_as(self) -> Actions:
        return Actions(normalisation="mean_std")

    @property
    def verdict(self) -> str:
        if self.folder == Path():  # only drawn
            return ""
        found = judged(self.folder)
        return NEVER if found is None else str(found)

    @property
    def untrusted(self) -> bool:
        found = judged(self.folder)
        return found is not None and found.untrusted

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
    marker: ClassVar = SUMMARY
    job: ClassVar = "label"
    holes: ClassVar[bool] = False
    """Whether single numbers may not be known."""

    @property
    def facts(self) -> PseudoActionFacts:
        """What _label.json says. Raises ValueError where the folder holds no finished labels of this kind."""
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
        found = Labels.read(
            self.folder, clips, column="action", steps=facts.horizon, job="label", facts=facts.robot, holes=self.holes
        )
        dim = len(facts.robot.action_names)
        if len(found.rows) and found.values.shape[2] != dim:
            raise ValueError(
                f"'{self.folder}' holds actions of {found.values.shape[2]} dimensions, but names {dim}: label again"
            )
        values = found.values[:, :horizon]
        if self.holes:
            return replace(found, values=held(values), known=np.isfinite(values))
        return replace(found, values=values, known=facts.known)


@dataclass(frozen=True)
class TrackActions(PseudoActions):
    """As pseudo-actions, by `giza label --tracks`: the robot's actions for how the tool of a track moves."""

    words: ClassVar[tuple[str, ...]] = (BY_TRACKS,)
    title: ClassVar = "track"


@dataclass(frozen=True)
class HandActions(PseudoActions):
    """As pseudo-actions, by `giza label --tracks --hand` (EgoScale, GR00T N1.7): how the hand moves from where it is, and how far it
    opens, as chunks of a robot whose end effector is relative, in that robot's own slot. What is not known is masked, and
    held in the meantime; the state always is."""

    words: ClassVar[tuple[str, ...]] = (BY_HANDS,)
    title: ClassVar = "hand"
    holes: ClassVar = True


LABELS: tuple[type[Label], ...] = (Actions, Latents, PseudoActions, TrackActions, HandActions, Unlabelled)
"""As pyramid files name them."""
