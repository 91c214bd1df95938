"""Labels by hands (EgoScale, GR00T N1.7): how a person's hand moves and opens, as the chunks of a robot whose end effector is
relative. Nothing is fitted but the ends of the opening's range: the hand is the end effector.

With p, R the hand's position and rotation in the robot's space at a frame, and p_h, R_h those h steps of the robot later:

    position  p_h - p, or R^T (p_h - p) where the robot sees it from the hand (`ActionPart.frame`)
    rotation  R^T R_h
    opening   from the closed end of the robot's range to the open one, as the hand's lies in the range of all hands

What a track does not know at the frame, or h steps later, is NaN, and masked in what a policy learns from.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corpora.agent.track import Track
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from corpora.episodes.parts import ActionPart
from corpora.mixture.labels import held
from corpora.mixture.pseudo_actions import BY_HANDS, ClipLabels
from corpora.store.files import digest_of, write_json
from vla.actions.rotations import from_matrix, quaternion_to_matrix
from vla.embodiment import Embodiment

log = logging.getLogger(__name__)

FILE = "hands.json"
FORMAT = 1
"""Raised when the same tracks would give other labels."""
LEAST_STEPS = 0.5
"""Share of a chunk's steps at which the hand's position must be known."""
MEASURED = 20_000
"""Labels, or a few more, whose range is compared with the robot's."""
ENDS = (0.05, 0.95)
"""Quantiles of the openings of all hands that are closed and open."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HandLabeller:
    """Labels the clips of a corpus by the hands in them."""

    kind: ClassVar[str] = BY_HANDS

    facts: Embodiment
    horizon: int
    position: ActionPart
    turn: ActionPart | None
    openings: dict[int, tuple[float, float]]
    """Dimension of the action -> its value for a hand that is closed, and for one that is open."""
    spread: tuple[float, float]
    """Of the hands' openings, what is closed and what is open."""
    tracks: Tracks
    times: dict[str, NDArray[np.float64]]

    @classmethod
    def fitted(
        cls,
        facts: Embodiment,
        horizon: int,
        corpus: Corpus,
        tracks: Tracks,
        *,
        wrist: str = "",
        opening: Sequence[str] = (),
        opens: str = "",
    ) -> tuple[HandLabeller, dict[str, Any]]:
        """And what was measured: of each dimension the share of the labels' numbers that is known, of each encoded one the share
        that lies beyond the robot's range, and why frames have no label. Raises ValueError where the robot has no relative end
        effector, and where no track knows what that takes."""
        position, turn = end_effector(facts.action_space.parts, wrist)
        times, placed, turned, found = corpus.times(), False, False, [np.zeros(0, np.float32)]
        for track in (tracks[name] for name in times if name in tracks):
            placed |= bool(np.isfinite(_places(track)).all(1).any())
            turned |= bool(np.isfinite(track.turn_xyzw).all(1).any())
            found.append(track.opening[np.isfinite(track.opening)])
        if not placed:
            raise ValueError(
                f"tracks '{tracks.folder}' know no position_m: how a hand moves in the robot's space is not known in an image; give "
                "those of giza crosspaint (OUT/tracks), or files with position_m (giza track --source files)"
            )
        if position.frame and not turned:
            raise ValueError(
                f"action part '{position.name}' is seen from the hand (frame '{position.frame}'), and tracks '{tracks.folder}' know "
                "no turn_xyzw: give files that do, or action parts without the frame"
            )
        openings_seen = np.concatenate(found)
        ends = np.quantile(openings_seen, ENDS) if len(openings_seen) else np.zeros(2)
        told = opens and ends[1] > ends[0]
        if opens and not told:
            log.warning("--opens %s: no track knows how far a hand opens: %s is masked", opens, ", ".join(opening))
        openings = _ends_of(facts, opening, opens) if told else {}
        spread = float(ends[0]), float(ends[1])
        labeller = cls(facts, horizon, position, turn, openings, spread, tracks, times)
        return labeller, labeller._measured()

    @property
    def _values(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "robot": self.facts.to_json(),
            "position": self.position.name,
            "turn": self.turn.name if self.turn else "",
            "horizon": self.horizon,
            "openings": {str(dim): list(ends) for dim, ends in self.openings.items()},
            "spread": list(self.spread),
        }

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, self._values)

    @property
    def identity(self) -> str:
        return digest_of(json.dumps(self._values), self.tracks.identity)[:16]

    @property
    def unknown(self) -> list[str]:
        """Names of the dimensions of which no hand tells anything."""
        names, turn = self.facts.action_space.action_names, self.turn
        told = {*self.position.dims, *(turn.dims if turn else ()), *self.openings}
        return [name for dim, name in enumerate(names) if dim not in told]

    def chunks(self, clip_id: str) -> ClipLabels | None:
        """Of the frames in which the hand's position is known, and at enough of the steps that follow; None where there is none."""
        found, enough = self._read(clip_id)
        frames = np.flatnonzero(enough)
        return ClipLabels(clip_id, self.times[clip_id][frames], found[frames]) if len(frames) else None

    def _read(self, clip_id: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """[T, H, Da], NaN where not known, and bool [T] which frames have a label."""
        t_s, dims = self.times[clip_id], self.facts.action_space.action_dim
        found = np.full((len(t_s), self.horizon, dims), np.nan)
        if clip_id not in self.tracks:
            return found.astype(np.float32), np.zeros(len(t_s), np.bool_)
        track = self.tracks[clip_id]
        later = t_s[:, None] + self.facts.step_s * np.arange(1, self.horizon + 1)
        start = _places(track)
        place = between(t_s, start, later)
        turned, turns = matrices(track.turn_xyzw), _turns_between(t_s, track.turn_xyzw, later)
        moved = place - start[:, None]
        if self.position.frame:
            moved = np.einsum("tji,thj->thi", turned, moved)
        found[..., list(self.position.dims)] = moved
        if self.turn is not None:
            relative = np.einsum("tji,thjk->thik", turned, turns)
            found[..., list(self.turn.dims)] = from_matrix(self.turn.rotation, relative)
        closed, wide = self.spread
        share = np.clip((between(t_s, track.opening[:, None], later)[..., 0] - closed) / max(wide - closed, 1e-9), 0, 1)
        for dim, (shut, open_) in self.openings.items():
            found[..., dim] = shut + share * (open_ - shut)
        known = np.isfinite(moved).all(2)
        return found.astype(np.float32), np.asarray(known.mean(1) >= LEAST_STEPS)

    def _measured(self) -> dict[str, Any]:
        space, counts, kept, total = self.facts.action_space, Counter[str](), [], 0
        known = np.zeros(space.action_dim)
        for clip_id, t_s in self.times.items():
            if clip_id not in self.tracks:
                counts["clip without a track"] += len(t_s)
                continue
            found, enough = self._read(clip_id)
            there = np.isfinite(_places(self.tracks[clip_id])).all(1)
            turned = np.isfinite(self.tracks[clip_id].turn_xyzw).all(1) | (not self.position.frame)
            counts["no position"] += int((~there).sum())
            counts["no rotation to see it from"] += int((there & ~turned).sum())
            counts["lost too soon"] += int((there & turned & ~enough).sum())
            known += np.isfinite(found[enough]).mean(1).sum(0)
            if total < MEASURED:
                kept.append(held(found[enough]))
            total += int(enough.sum())
        told: dict[str, Any] = {
            "frames_without": {reason: count for reason, count in counts.items() if count},
            "training": {"opening": list(self.spread)},
            "known": dict(zip(space.action_names, (known / max(total, 1)).tolist(), strict=True)),
            "beyond_range": {},
        }
        if total:
            chunks = np.concatenate(kept)
            rows = chunks.reshape(-1, chunks.shape[2])
            beyond = space.outside(space.origin(len(chunks)), chunks, frames=(None, rows))
            told["beyond_range"] = {name.removeprefix("action: "): share for name, share in beyond.items() if share}
        return told


def end_effector(parts: Sequence[ActionPart], wrist: str = "") -> tuple[ActionPart, ActionPart | None]:
    """Position and rotation of a robot's relative end effector, the latter where it has one. Raises ValueError where it has no such
    position, or several and `wrist` names none."""
    relative = [part for part in parts if part.representation == "relative"]
    places = [part for part in relative if not part.turns and len(part.dims) == 3 and wrist in ("", part.name)]
    if len(places) != 1:
        names = [part.name for part in places] or [f"{part.name} ({part.representation})" for part in parts]
        raise ValueError(
            f"--hand: of the robot's action parts {', '.join(names)} {'several' if places else 'none'} "
            f"could be the position of its end effector{f' called {wrist!r}' if wrist else ''}: give --action-parts with one [x, y, z] "
            "that is relative, and name it with --wrist where there are several"
        )
    turns = [part for part in relative if part.turns and (not places[0].frame or part.name == places[0].frame)]
    if len(turns) > 1:
        raise ValueError(
            f"--hand: {', '.join(part.name for part in turns)} are relative rotations; say which turns with '{places[0].name}': give "
            "it a frame"
        )
    return places[0], (turns[0] if turns else None)


def _ends_of(facts: Embodiment, words: Sequence[str], opens: str) -> dict[int, tuple[float, float]]:
    """Dimension -> closed and open end of its range, of the absolute ones in whose names one of `words` is. Raises ValueError where
    there is none."""
    space, found = facts.action_space, {}
    for part in space.parts:
        fitted = space.actions[part.name]
        seen = fitted.statistics.min, fitted.statistics.max
        # as the policy's own range is cut; where it is not, the data's
        ends = [fitted.decode(np.full(seen[0].shape, far)) for far in (-np.inf, np.inf)]
        low, high = (np.where(np.isfinite(end), end, own) for end, own in zip(ends, seen, strict=True))
        for place, dim in enumerate(part.dims):
            if part.needs_state or part.turns or not any(word in space.action_names[dim] for word in words):
                continue
            closed, wide = float(low[..., place].min()), float(high[..., place].max())
            found[dim] = (closed, wide) if opens == "high" else (wide, closed)
    if not found:
        raise ValueError(
            f"--opening {' '.join(words)}: in the name of no absolute dimension of the action ({', '.join(space.action_names)}); "
            "name the gripper, or leave out --opens"
        )
    return found


def _places(track: Track) -> Floats:
    """[T, 3]: where the hand is, in the frames in which it is seen."""
    return np.where(track.seen[:, None], track.position_m.astype(np.float64), np.nan)


def between(t_s: Floats, values: NDArray[np.floating], wanted_s: Floats) -> Floats:
    """[T, H, D]: values [T, D] at moments [T, H] between their times `t_s`, evenly; NaN where one of the two beside is, and
    beyond the ends."""
    left, share, inside = _beside(t_s, wanted_s)
    one, other = values[left].astype(np.float64), values[np.minimum(left + 1, len(t_s) - 1)].astype(np.float64)
    found = np.where(share[..., None] == 0, one, (1 - share[..., None]) * one + share[..., None] * other)
    return np.where(inside[..., None], found, np.nan)


def matrices(xyzw: NDArray[np.floating]) -> Floats:
    """[..., 3, 3]; NaN where a number is."""
    return quaternion_to_matrix(xyzw.astype(np.float64), "xyzw")


def _turns_between(t_s: Floats, xyzw: NDArray[np.floating], wanted_s: Floats) -> Floats:
    """[T, H, 3, 3] likewise; two frames apart a hand turns so little that the straight line between quaternions is its way."""
    signed = xyzw.astype(np.float64)
    for row in range(1, len(signed)):
        if signed[row] @ signed[row - 1] < 0:
            signed[row] *= -1
    return matrices(between(t_s, signed, wanted_s))


def _beside(t_s: Floats, wanted_s: Floats) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Row before each moment, how far on it is to the next, and whether it lies within."""
    close = 1e-6
    left = np.clip(np.searchsorted(t_s, wanted_s + close, side="right") - 1, 0, len(t_s) - 1)
    right = np.minimum(left + 1, len(t_s) - 1)
    step = np.where(right > left, t_s[right] - t_s[left], 1.0)
    share = (wanted_s - t_s[left]) / step
    share = np.where(np.abs(share) * step <= close, 0.0, share)
    return left, share, (wanted_s >= t_s[0] - close) & (wanted_s <= t_s[-1] + close)
