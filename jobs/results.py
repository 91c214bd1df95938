"""What the functions of `jobs` return: where it lies, its summary, and what was made, opened when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.evaluation.open_loop import OpenLoopResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corpora.clips.corpus import Corpus
    from lapa.model.lam import LatentActionModel
    from vla.policy import Policy


@dataclass(frozen=True)
class Result:
    """Of any job."""

    folder: Path
    """Where it was written."""
    summary: dict[str, Any]
    """What the job writes as its summary, and `giza` prints in part."""


class CorpusResult(Result):
    """Of `jobs.ingest`."""

    @cached_property
    def corpus(self) -> Corpus:
        from corpora.clips.corpus import Corpus

        return Corpus(self.folder)


class LamResult(Result):
    """Of `jobs.train_lam`."""

    @cached_property
    def model(self) -> LatentActionModel:
        from lapa.model.checkpoint import load_lam

        return load_lam(self.folder)


class PolicyResult(Result):
    """Of `jobs.pretrain` and `jobs.ground`."""

    @cached_property
    def model(self) -> Policy:
        from vla.checkpoint import load_policy

        return load_policy(self.folder)

    @property
    def held_out(self) -> Mapping[str, float]:
        """Held-out losses by name: of each dataset with actions, of the alignment."""
        return self.summary["held_out"]


class OpenLoop(OpenLoopResult):
    """Errors of a policy and of the baselines, which can be drawn."""

    def plot(self) -> Figure:
        """Errors with their intervals, by dimension, and by how far ahead."""
        from jobs.evaluation.plots import error_figure

        return error_figure(self)


class EvaluationResult(Result):
    """Of `jobs.evaluate`."""

    @cached_property
    def open_loop(self) -> OpenLoop:
        """Raises ValueError where none was measured."""
        if "open_loop" not in self.summary:
            raise ValueError("no open loop was measured: give data and episodes")
        return OpenLoop.from_json(self.summary["open_loop"])

    @property
    def closed_loop(self) -> Mapping[str, Any]:
        """Raises ValueError where none was measured."""
        if "closed_loop" not in self.summary:
            raise ValueError("no closed loop was measured: give metaworld=True")
        return self.summary["closed_loop"]
