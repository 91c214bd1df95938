"""What a pyramid holds, member by member and tier by tier, from manifests and metadata: no picture is decoded.

Whatever cannot be trained on (dimensions that do not fit, labels of another corpus, a tier without samples) is gathered, so
that all of it can be told at once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpora.clips.corpus import Corpus
from corpora.episodes.opening import open_episodes
from corpora.mixture.pseudo_actions import read_facts
from corpora.mixture.spec import TIERS, Pyramid, PyramidMember
from corpora.video.decode import describe

_METADATA = b"giza"


@dataclass(frozen=True)
class PolicyLimits:
    """What numbers of members have to fit."""

    horizon: int = 16
    """Steps of a chunk."""
    max_action_dim: int = 32
    """Widest action."""
    max_state_dim: int = 64
    """Widest state."""
    future_s: float = 0.8
    """Seconds to the future that frames without a label are aligned with."""


@dataclass(frozen=True)
class Contents:
    """What there is of a member, or of the members of a tier together."""

    clips: int = 0
    """Clips or episodes; 0 for what is only drawn."""
    frames: int = 0
    """Frames, those of one camera."""
    hours: float = 0.0
    samples: int = 0
    """Moments that can be trained on; some of them training holds out."""
    share: float = 0.0
    """Of the samples that are drawn, by the weights; of the hours where the pyramid is only drawn."""
    epochs: float | None = None
    """How often each sample comes in the planned budget; None where none is planned, or there is no sample."""


@dataclass(frozen=True)
class MemberSurvey:
    """One member."""

    member: PyramidMember
    contents: Contents
    dims: str
    """Of its states and actions, as people read it."""


@dataclass(frozen=True)
class TierSurvey:
    """All members of one tier together."""

    tier: str
    members: tuple[MemberSurvey, ...]
    contents: Contents


@dataclass(frozen=True)
class PyramidSurvey:
    """Tiers from the base to the top, only those that the file has."""

    name: str
    tiers: tuple[TierSurvey, ...]
    contents: Contents
    """Of all."""
    steps: int
    """Planned optimiser steps; 0: none planned."""
    batch_size: int
    planned: bool
    """Only drawn, from hours."""
    faults: tuple[str, ...]

    @property
    def members(self) -> tuple[MemberSurvey, ...]:
        return tuple(found for tier in self.tiers for found in tier.members)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {
            "name": self.name,
            "planned": self.planned,
            "steps": self.steps,
            "batch_size": self.batch_size,
            **dataclasses.asdict(self.contents),
            "tiers": [
                {
                    "tier": tier.tier,
                    **dataclasses.asdict(tier.contents),
                    "members": [
                        {
                            **{
                                name: getattr(found.member, name)
                                for name in ("name", "label", "weight", "licence", "source")
                            },
                            "embodiment": found.member.slot,
                            "dimensions": found.dims,
                            **dataclasses.asdict(found.contents),
                        }
                        for found in tier.members
                    ],
                }
                for tier in self.tiers
            ],
            "faults": list(self.faults),
        }


def survey_pyramid(
    pyramid: Pyramid, *, steps: int = 0, batch_size: int = 0, limits: PolicyLimits | None = None
) -> PyramidSurvey:
    """Counts what `pyramid` holds. What is wrong with a member is in `faults`, and the member counts as empty.

    `steps`, `batch_size`: the budget of which epochs are told. Raises ValueError for a budget below 0.
    """
    if steps < 0 or batch_size < 0:
        raise ValueError(f"steps {steps}, batch_size {batch_size}: 0 (none planned) or more")
    limits = limits or PolicyLimits()
    faults: list[str] = []
    counted: list[_Counted] = []
    for member in pyramid.members:
        try:
            found = _Counted(hours=member.hours) if member.planned else _count(member, pyramid, limits)
            faults += [f"member '{member.name}': {fault}" for fault in found.faults]
        except ValueError as error:
            found = _Counted(broken=True)
            faults.append(f"member '{member.name}': {error}")
        counted.append(found)
    planned = bool(pyramid.members) and all(member.planned for member in pyramid.members)
    sizes = [found.hours if planned else member.weight for member, found in zip(pyramid.members, counted, strict=True)]
    total = sum(sizes)
    made = []
    for member, found, size in zip(pyramid.members, counted, sizes, strict=True):
        share = size / total if total else 0.0
        epochs = steps * batch_size * share / found.samples if steps and batch_size and found.samples else None
        contents = Contents(found.clips, found.frames, found.hours, found.samples, share, epochs)
        made.append(MemberSurvey(member, contents, found.dims))
        if member.weight > 0 and not (found.samples or found.broken or member.planned):
            faults.append(f"member '{member.name}': no sample to train on; leave it out, or give it weight = 0")
    tiers = []
    for tier in TIERS:
        mine = tuple(found for found in made if found.member.tier == tier)
        if mine:
            tiers.append(TierSurvey(tier, mine, _together([found.contents for found in mine], steps * batch_size)))
            if not planned and not tiers[-1].contents.samples:
                faults.append(f"tier '{tier}' has no sample: none of its members holds any")
    faults += _slot_faults(pyramid.members, counted)
    whole = _together([found.contents for found in made], steps * batch_size)
    return PyramidSurvey(pyramid.name, tuple(tiers), whole, steps, batch_size, planned, tuple(faults))


@dataclass
class _Counted:
    """What was found of one member."""

    clips: int = 0
    frames: int = 0
    hours: float = 0.0
    samples: int = 0
    dims: str = ""
    action_dim: int = 0
    """0 where there is no action, or it is not known."""
    faults: list[str] = dataclasses.field(default_factory=list)
    broken: bool = False
    """It could not be read, which its fault tells already."""


def _together(parts: Sequence[Contents], drawn: int) -> Contents:
    samples, share = sum(part.samples for part in parts), sum(part.share for part in parts)
    return Contents(
        sum(part.clips for part in parts),
        sum(part.frames for part in parts),
        sum(part.hours for part in parts),
        samples,
        share,
        drawn * share / samples if drawn and samples else None,
    )


def _slot_faults(members: Sequence[PyramidMember], counted: Sequence[_Counted]) -> list[str]:
    """Members of one slot have actions of one width."""
    widths: dict[str, dict[int, str]] = {}
    for member, found in zip(members, counted, strict=True):
        if found.action_dim and member.weight > 0:
            widths.setdefault(member.slot, {}).setdefault(found.action_dim, member.name)
    return [
        f"embodiment '{slot}': "
        + ", ".join(f"'{name}' has actions of {width} dimensions" for width, name in sorted(found.items()))
        + "; give them embodiments of their own"
        for slot, found in widths.items()
        if len(found) > 1
    ]


def _count(member: PyramidMember, pyramid: Pyramid, limits: PolicyLimits) -> _Counted:
    """Raises ValueError where the member cannot be read."""
    return _count_episodes(member, pyramid, limits) if member.dataset else _count_clips(member, pyramid, limits)


def _count_episodes(member: PyramidMember, pyramid: Pyramid, limits: PolicyLimits) -> _Counted:
    selection = dataclasses.replace(member.selection, failures=True, previous_action=False)
    data = open_episodes(pyramid.path(member.dataset), selection)
    rows = [len(episode.t_s) for episode in data.episodes]
    state_dim = 0 if data.state is None else data.state.shape[1]
    action_dim = 0 if data.action is None else data.action.shape[1]
    found = _Counted(len(rows), sum(rows), sum(rows) / data.fps / 3600, sum(rows), action_dim=action_dim)
    found.dims = f"state {state_dim}, action {action_dim}"
    if member.label == "action" and not action_dim:
        found.faults.append(f"label 'action', but dataset '{member.dataset}' has no actions")
    for what, width, most in (
        ("state", state_dim, limits.max_state_dim),
        ("action", action_dim, limits.max_action_dim),
    ):
        if width > most:
            found.faults.append(
                f"{what} of {width} dimensions, the policy takes at most {most}; choose parts of it, or a wider recipe"
            )
    return found


def _count_clips(member: PyramidMember, pyramid: Pyramid, limits: PolicyLimits) -> _Counted:
    corpus = Corpus(pyramid.path(member.corpus))
    frames = sum(row.frames for row in corpus.clips)
    found = _Counted(len(corpus.clips), frames, sum(row.seconds for row in corpus.clips) / 3600)
    if not corpus.clips:
        found.faults.append(f"corpus '{member.corpus}' holds no clip; its manifest gives the reasons")
    elif member.label == "latent":
        _count_latents(found, pyramid.path(member.latents), corpus, limits)
    elif member.label == "inverse-dynamics":
        _count_pseudo_actions(found, pyramid.path(member.pseudo_actions), corpus, member, limits)
    elif member.label == "none":
        shown = [row.frames * max(0.0, 1 - limits.future_s / row.seconds) for row in corpus.clips if row.seconds > 0]
        found.samples = int(np.sum(np.floor(shown)))  # frames that something follows after future_s
    return found


def _count_latents(found: _Counted, folder: Path, corpus: Corpus, limits: PolicyLimits) -> None:
    parts = _parts(folder)
    for path, metadata, rows in parts:
        made_of = dict(json.loads(metadata.get(_METADATA, b"{}"))).get("key", {}).get("corpus", "")
        if made_of != corpus.identity:
            found.faults.append(
                f"latents '{folder}' are of another corpus than '{corpus.root}' ({path.name}); extract them of this one"
            )
            return
        found.samples += rows
    width = _list_width([path for path, _, rows in parts if rows], "latent")
    tokens = _tokens(folder)
    found.action_dim = width // tokens if tokens else 0
    found.dims = f"{tokens} tokens of {found.action_dim}" if tokens else f"latent {width}"
    if tokens and width % tokens:
        found.faults.append(f"latents of {width} numbers do not divide into {tokens} tokens; extract them again")
    elif tokens > limits.horizon:
        found.faults.append(f"latents of {tokens} tokens, the policy's chunks have {limits.horizon} steps")
    elif found.action_dim > limits.max_action_dim:
        found.faults.append(
            f"latents of {found.action_dim} dimensions, the policy takes at most {limits.max_action_dim}; train a latent "
            "action model of fewer, or choose a wider recipe"
        )


def _count_pseudo_actions(
    found: _Counted, folder: Path, corpus: Corpus, member: PyramidMember, limits: PolicyLimits
) -> None:
    facts = read_facts(folder)
    if facts.corpus != corpus.identity:
        found.faults.append(f"pseudo-actions '{folder}' are of another corpus than '{corpus.root}'; label this one")
        return
    found.samples = sum(rows for _, _, rows in _parts(folder))
    found.action_dim = len(facts.action_names)
    found.dims = f"{facts.horizon} steps of {found.action_dim}"
    if found.action_dim > limits.max_action_dim:
        found.faults.append(
            f"actions of {found.action_dim} dimensions, the policy takes at most {limits.max_action_dim}"
        )
    if facts.embodiment != member.slot:
        found.faults.append(
            f"pseudo-actions of '{facts.embodiment}', but the embodiment is '{member.slot}'; give the same to both"
        )


def _parts(folder: Path) -> list[tuple[Path, dict[bytes, bytes], int]]:
    """(path, metadata, rows) of the folder's Parquet parts, from their footers."""
    found = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            with pq.ParquetFile(path) as file:
                found.append((path, dict(file.schema_arrow.metadata or {}), int(file.metadata.num_rows)))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read ({describe(error)}); remove it and make it again") from error
    return found


def _list_width(paths: Sequence[Path], column: str) -> int:
    """Length of the lists of a column, by its first row; 0 where there is no row."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            return len(next(file.iter_batches(batch_size=1, columns=[column])).column(0)[0].as_py())
    return 0


def _tokens(folder: Path) -> int:
    """Of a latent, as extract.json or its model's configuration says; 0: not known here."""
    try:
        summary = json.loads((folder / "extract.json").read_text("utf-8"))
        if "tokens" in summary:
            return int(summary["tokens"])
        config = Path(str(summary["lam"])).expanduser() / "config.json"
        return int(json.loads(config.read_text("utf-8"))["tokens"])
    except (OSError, KeyError, ValueError, TypeError):
        return 0
