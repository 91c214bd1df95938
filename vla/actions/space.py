"""Everything between a robot's numbers and the policy's.

raw state [.., Ds]      -- rotations as 6D -- normalise -->      encoded state  [.., Ds']
raw chunk [.., H, Da]   -- delta / relative, 6D -- normalise --> encoded chunk  [.., H, Da']
sampled chunk           -- and all the way back -->              raw chunk, which the robot executes

A space is fitted on training data and stored in the checkpoint, so that a policy cannot be served with another's statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import NAMES_6D, ActionPart, Normalisation
from vla.actions.arrays import Array, SpaceData, as_numpy, expect, expect_numbers
from vla.actions.chunks import represent, represented_steps, restore
from vla.actions.layout import check_parts, named, one_part, split, state_columns, state_rotations, unroll_state
from vla.actions.normalise import Normaliser
from vla.actions.rest import displacements, resting
from vla.actions.rotations import from_matrix

FORMAT = 2
"""Of `ActionSpace.to_json`."""
RESOLUTION_6D = 1e-6
"""A number of a rotation matrix that moves by no more is constant: float32 quaternions make zeros of about 1e-7."""
_SPEC = ("state_dim", "action_dim", "parts", "state_normalisation", "state_clip", "state_names", "action_names")
_NEEDED = ("state_dim", "action_dim", "parts")


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """Encodes a robot's proprioceptive states and action chunks for the policy and decodes its chunks, over any leading axes.

    `decode_action` inverts `encode_action` to float32 rounding, within the range of the data that it was fitted on; beyond, both
    are cut to it. Two things it cannot give back: a dimension that never moved in these data decodes to that constant, and a
    rotation comes back as the same rotation but in its nearest form (q and -q, or angles that differ by full turns). Make one
    by `fit` or `from_json`.
    """

    state_dim: int
    """Numbers of a raw state; 0: the robot has none."""
    parts: tuple[ActionPart, ...]
    """Every number of the action belongs to exactly one part. Encoded actions have the parts in this order."""
    state: Normaliser
    """Statistics of the state, its rotations as 6D."""
    actions: Mapping[str, Normaliser]
    """Part -> statistics of what its representation makes of it."""
    state_names: tuple[str, ...] = ()
    """Of each number of the raw state; empty: state.0, state.1, ..."""
    action_names: tuple[str, ...] = ()
    """Of each number of the raw action; empty: made of the parts' names."""
    displacements: tuple[int, ...] | None = None
    """Numbers of the raw action that leave the robot at rest as zero; the others do so as they are. None: not known."""

    def __post_init__(self) -> None:
        check_parts(self.parts, self.state_dim, self.action_dim)
        made = {dim: f"{part.name}.{i}" for part in self.parts for i, dim in enumerate(part.dims)}
        by_default = {"state": _numbered(self.state_dim), "action": tuple(made[dim] for dim in sorted(made))}
        for what, numbered in by_default.items():
            given = getattr(self, f"{what}_names")
            if given and len(given) != len(numbered):
                raise ValueError(f"{len(given)} {what}_names for {len(numbered)} dimensions: name all of them, or none")
            object.__setattr__(self, f"{what}_names", tuple(given) or numbered)
        for part in self.parts:
            fitted = self.actions[part.name]
            if fitted.dim != part.width or fitted.per_step != part.per_step:
                raise ValueError(
                    f"action part '{part.name}' wants {part.width} dimensions, per_step {part.per_step}; its statistics are of "
                    f"{fitted.dim} dimensions, per_step {fitted.per_step}: they belong to another robot"
                )
        horizons = {fitted.horizon for fitted in self.actions.values() if fitted.per_step}
        if len(horizons) > 1:
            raise ValueError(
                f"statistics per step of horizons {sorted(map(str, horizons))}: all parts are fitted on one horizon"
            )
        if self.state.dim != len(self.encoded_state_names):
            raise ValueError(
                f"statistics of {self.state.dim} dimensions for an encoded state of {len(self.encoded_state_names)}"
            )

    @classmethod
    def fit(
        cls,
        states: Array | None,
        chunks: Array,
        mask: Array | None = None,
        *,
        parts: Sequence[ActionPart] | None = None,
        frames: tuple[Array | None, Array] | None = None,
        state_normalisation: Normalisation = "q01_q99",
        state_names: Sequence[str] = (),
        action_names: Sequence[str] = (),
        moved: Array | None = None,
    ) -> ActionSpace:
        """Statistics of training data (never of what is held out).

        states [M, Ds], None where the robot has none, and the chunks [M, H, Da] that begin there; mask bool [M, H] is False
        past an episode's end. parts: default one absolute part. Absolute parts take their statistics from the known steps, or,
        where they are given, from `frames`, states [N, Ds] and actions [N, Da] with one row a frame, so that overlapping
        chunks do not count a frame more than once; what is delta, relative or per step from `chunks`. moved [N, Ds]: how the
        state moves from each of these frames to the next, NaN where there is none; it tells displacements where the parts do not.
        Masked steps and NaN are left out. A few ten thousand chunks drawn at random suffice; all are held in memory.

        Raises ValueError for shapes and parts that do not fit, and where a dimension (of a step) has no value.
        """
        data = SpaceData.of(states, chunks, mask, frames)
        state_dim, action_dim = data.seen.shape[-1], data.chunk.shape[2]
        parts = one_part(state_dim, action_dim) if parts is None else tuple(parts)
        check_parts(parts, state_dim, action_dim)
        columns = state_columns(parts, _numbered(state_dim))
        resolution = np.array([RESOLUTION_6D if turned else 0.0 for _, turned in columns])
        state = Normaliser.fit(unroll_state(parts, data.seen), state_normalisation, resolution=resolution)
        fitted = {}
        for part in parts:
            values, there = data.represented(parts, part)
            try:
                fitted[part.name] = Normaliser.fit(
                    values,
                    part.normalisation,
                    mask=there,
                    per_step=part.per_step,
                    clip=part.clip,
                    resolution=RESOLUTION_6D if part.turns else 0.0,
                )
            except ValueError as error:
                raise ValueError(f"action part '{part.name}': {error}") from error
        space = cls(state_dim, parts, state, fitted, tuple(state_names), tuple(action_names))
        names = (space.state_names, space.action_names)
        after = None if moved is None else as_numpy(moved)
        if after is not None:
            expect("moved", after, data.seen.shape)
        return dataclasses.replace(space, displacements=displacements(parts, data.seen, after, data.rows, names))

    @property
    def action_dim(self) -> int:
        """Numbers of a raw action."""
        return sum(len(part.dims) for part in self.parts)

    @property
    def encoded_state_dim(self) -> int:
        """Numbers of an encoded state."""
        return self.state.dim

    @property
    def encoded_action_dim(self) -> int:
        """Numbers of an encoded action."""
        return sum(part.width for part in self.parts)

    @property
    def horizon(self) -> int | None:
        """The only chunk length it takes, where a part has statistics per step; None: any."""
        return next((fitted.horizon for fitted in self.actions.values() if fitted.per_step), None)

    @property
    def needs_state(self) -> bool:
        """Whether any part does."""
        return any(part.needs_state for part in self.parts)

    @property
    def encoded_state_names(self) -> tuple[str, ...]:
        """Of each encoded state number; a rotation's are called by its first number's name and r11 to r23."""
        return tuple(name for name, _ in state_columns(self.parts, self.state_names))

    @property
    def encoded_action_names(self) -> tuple[str, ...]:
        """Of each encoded action number."""
        raw, names = self.action_names, []
        for part in self.parts:
            names += [f"{part.name}.{entry}" for entry in NAMES_6D] if part.turns else [raw[dim] for dim in part.dims]
        return tuple(names)

    @property
    def constant(self) -> tuple[str, ...]:
        """Encoded state (`state: NAME`) and action (`action: NAME`) numbers that never moved in the data."""
        still = [dim in fitted.constant for fitted in map(self._statistics, self.parts) for dim in range(fitted.dim)]
        states = [f"state: {self.encoded_state_names[dim]}" for dim in self.state.constant]
        actions = [f"action: {name}" for name, flag in zip(self.encoded_action_names, still, strict=True) if flag]
        return (*states, *actions)

    def outside(
        self,
        states: Array | None,
        chunks: Array,
        mask: Array | None = None,
        *,
        frames: tuple[Array | None, Array] | None = None,
    ) -> dict[str, float]:
        """Encoded state (`state: NAME`, where there are states) and action (`action: NAME`) number -> share of these data that
        lies beyond the range of the data that it was fitted on. Arguments as those of `fit`."""
        data = SpaceData.of(states, chunks, mask, frames)
        found = np.concatenate(
            [self._statistics(part).outside(*data.represented(self.parts, part)) for part in self.parts]
        )
        shares = {f"action: {name}": float(share) for name, share in zip(self.encoded_action_names, found, strict=True)}
        if not data.seen.shape[1]:
            return shares
        seen = unroll_state(self.parts, data.seen)
        beyond = self.state.outside(seen, np.ones(len(seen), np.bool_))
        return shares | {f"state: {n}": float(share) for n, share in zip(self.encoded_state_names, beyond, strict=True)}

    def part(self, name: str) -> ActionPart:
        """The part of that name. Raises KeyError where there is none."""
        return named(self.parts, name)

    def encode_state(self, state: Array) -> NDArray[np.float32]:
        """Raw [.., Ds] to normalised float32 [.., Ds']. Raises ValueError for another width, and for NaN."""
        raw = as_numpy(state)
        expect("state", raw, (..., self.state_dim))
        encoded = self.state.encode(unroll_state(self.parts, raw))
        expect_numbers(encoded, self.encoded_state_names, "leave such states out")
        return encoded.astype(np.float32)

    def encode_action(self, state: Array | None, chunk: Array, mask: Array | None = None) -> NDArray[np.float32]:
        """Raw chunk [.., H, Da], beside the raw state [.., Ds] at its beginning, to normalised float32 [.., H, Da'].

        mask bool [.., H], or [.., H, Da], is False where an action, or a number of it, is unknown: whatever stands there is
        encoded as 0. The state may be None where all parts are absolute. Raises ValueError for shapes that do not fit, a
        horizon that statistics per step were not made for, and numbers that are none (NaN, quaternions of length zero) where
        the mask does not hide them.
        """
        raw, start = as_numpy(chunk), self._start(state)
        expect("action chunk", raw, (..., self.horizon, self.action_dim))
        pieces = [self._statistics(part).encode(represent(self.parts, part, start, raw)) for part in self.parts]
        encoded = np.concatenate(pieces, axis=-1)
        if mask is not None:
            known = as_numpy(mask).astype(np.bool_)
            single = known.ndim == raw.ndim
            expect("mask", known, raw.shape if single else raw.shape[:-1])
            encoded = np.where(
                self.known_numbers(known) if single else self.known_steps(known)[..., None], encoded, 0.0
            )
        expect_numbers(
            encoded, self.encoded_action_names, "give the mask of the steps that are known, or mend the data"
        )
        return encoded.astype(np.float32)

    def known_steps(self, mask: Array) -> NDArray[np.bool_]:
        """Steps [.., H] that can be encoded, of a mask [.., H] of known actions: all of them, but that a delta also needs the step
        before it. They differ only for masks with holes."""
        known = as_numpy(mask).astype(np.bool_)
        for part in self.parts:
            known = known & represented_steps(part, as_numpy(mask).astype(np.bool_))
        return known

    def known_numbers(self, known: Array) -> NDArray[np.bool_]:
        """Numbers [.., Da'] that can be encoded, of the known ones of raw actions [.., Da]: a rotation needs all of its own."""
        given = as_numpy(known).astype(np.bool_)
        expect("known", given, (..., self.action_dim))
        found = []
        for part in self.parts:
            own = given[..., list(part.dims)]
            found.append(np.repeat(own.all(-1, keepdims=True), part.width, -1) if part.turns else own)
        return np.concatenate(found, axis=-1)

    def origin(self, count: int) -> NDArray[np.float32]:
        """[count, Ds]: the raw state at which what is relative is the motion itself: zeros, its rotations those that turn nothing."""
        state = np.zeros((count, self.state_dim), np.float32)
        for dims, kind in state_rotations(self.parts):
            state[:, list(dims)] = from_matrix(kind, np.eye(3))
        return state

    def decode_action(self, state: Array | None, encoded: Array) -> NDArray[np.float32]:
        """Encoded [.., H, Da'] to a raw chunk, float32 [.., H, Da]: the inverse of `encode_action`.

        Raises ValueError for shapes that do not fit, another horizon than that of statistics per step, and a missing state.
        """
        numbers, start = as_numpy(encoded), self._start(state)
        expect("encoded action chunk", numbers, (..., self.horizon, self.encoded_action_dim))
        pieces = split(self.parts, numbers)
        represented = {part.name: self._statistics(part).decode(pieces[part.name]) for part in self.parts}
        return restore(self.parts, start, represented).astype(np.float32)

    def at_rest(self, action: Array) -> NDArray[np.float32]:
        """The raw action [.., Da] that leaves the robot at rest after `action`. Raises ValueError where that is not known."""
        if self.displacements is None:
            raise ValueError(
                "whether zero or the last action leaves this robot at rest is not known: its data did not tell, or an older giza "
                "trained it. Train it on with this one, say displacement = true or false of each of its action_parts, or set "
                "ActionSpace.displacements"
            )
        return resting(self.parts, self.displacements, as_numpy(action))

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint: plain dicts, lists and numbers; `from_json` restores the same bits."""
        spec = (
            self.state_dim, self.action_dim, [dataclasses.asdict(part) for part in self.parts], self.state.kind,
            self.state.clip, self.state_names, self.action_names,
        )  # fmt: skip
        return {
            "format": FORMAT,
            "spec": dict(zip(_SPEC, spec, strict=True)),
            "state": self.state.to_json(),
            "actions": {name: fitted.to_json() for name, fitted in self.actions.items()},
            "displacements": None if self.displacements is None else list(self.displacements),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionSpace:
        """Inverse of `to_json`. Raises ValueError for another format, and for what is missing or does not fit."""
        if values.get("format") != FORMAT:
            raise ValueError(
                f"action space of format {values.get('format')!r}: this version of giza reads {FORMAT}, which cuts what lies "
                "beyond the data; train the policy (or giza label's model) again, or use the version of giza that made it"
            )
        if missing := [name for name in ("spec", "state", "actions") if name not in values]:
            raise ValueError(f"action space without {', '.join(missing)}: the checkpoint is incomplete")
        spec = dict(values["spec"])
        unknown, missing = sorted(set(spec) - set(_SPEC)), sorted(set(_NEEDED) - set(spec))
        if unknown or missing:
            raise ValueError(
                f"action space with unknown fields {unknown}, without {missing}: made by another version of giza"
            )
        parts = tuple(map(ActionPart.from_json, spec["parts"]))
        if missing := [part.name for part in parts if part.name not in values["actions"]]:
            raise ValueError(f"action space without statistics of {', '.join(missing)}: the checkpoint is incomplete")
        actions = {part.name: Normaliser.from_json(values["actions"][part.name]) for part in parts}
        names = (tuple(spec.get(f"{what}_names", ())) for what in ("state", "action"))
        space = cls(int(spec["state_dim"]), parts, Normaliser.from_json(values["state"]), actions, *names)
        moving = values.get("displacements")
        return dataclasses.replace(space, displacements=None if moving is None else tuple(moving))

    def _statistics(self, part: ActionPart) -> Normaliser:
        return self.actions[part.name]

    def _start(self, state: Array | None) -> NDArray[Any] | None:
        if state is None:
            return None
        start = as_numpy(state)
        expect("state", start, (..., self.state_dim))
        return start


def _numbered(state_dim: int) -> tuple[str, ...]:
    return tuple(f"state.{dim}" for dim in range(state_dim))
