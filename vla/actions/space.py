"""Everything between a robot's numbers and the policy's: `ActionSpec` says what they are, `ActionCodec` turns them.

raw state [.., Ds]      -- rotations as 6D -- normalise -->  encoded state  [.., state_dim]
raw chunk [.., H, Da]   -- delta / relative, 6D (-- less the linear base) -- normalise -->  encoded chunk [.., H, action_dim]
sampled chunk           -- and all the way back -->  raw chunk, which the robot executes

The codec is fitted on training data and stored in the checkpoint, so that a policy cannot be served with another's statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.parts import NAMES_6D
from vla.actions.chunks import represent, represented_steps, restore
from vla.actions.linear_base import ROUNDING, LinearBase
from vla.actions.normalise import Normaliser
from vla.actions.rotations import matrix_to_rotation_6d, to_matrix
from vla.actions.spec import ActionSpec

FORMAT = 1
"""Of `ActionCodec.to_json`."""
RESOLUTION_6D = 1e-6
"""A number of a rotation matrix that moves by no more is constant: float32 quaternions make zeros of about 1e-7."""

Array = Any
"""A numpy array, or a torch tensor on any device; answers are numpy."""


class ActionCodec:
    """Encodes states and action chunks for the policy and decodes its chunks, all over any leading axes.

    `decode_action` inverts `encode_action` to float32 rounding. Two things it cannot give back: a dimension that never moved in
    the data it was fitted on decodes to that constant, and a rotation comes back as the same rotation but in its nearest form
    (q and -q, or angles that differ by full turns).
    """

    def __init__(
        self, spec: ActionSpec, state: Normaliser, actions: Mapping[str, Normaliser], base: LinearBase | None = None
    ) -> None:
        """From fitted normalisers: of the state, and of each part by name; `base` where spec.linear_base. Use `fit` or
        `from_json`."""
        self.spec = spec
        self.state = state
        self.base = base
        self.actions = {part.name: actions[part.name] for part in spec.parts}
        for part in spec.parts:
            fitted = self.actions[part.name]
            if fitted.dim != part.width or fitted.per_step != part.per_step:
                raise ValueError(
                    f"action part '{part.name}' wants {part.width} dimensions, per_step {part.per_step}; its statistics are of "
                    f"{fitted.dim} dimensions, per_step {fitted.per_step}: they belong to another robot"
                )
        horizons = {fitted.horizon for fitted in self.actions.values() if fitted.per_step}
        horizons |= {base.horizon} if base is not None else set()
        if len(horizons) > 1:
            raise ValueError(
                f"statistics per step of horizons {sorted(map(str, horizons))}: all parts are fitted on one horizon"
            )
        if spec.linear_base != (base is not None):
            raise ValueError(f"linear_base {spec.linear_base}, base {base}: a codec has a base where its spec says so")
        if base is not None and base.weights.shape[1:] != (len(self.state_names), self.action_dim):
            raise ValueError(
                f"linear base with weights of {list(base.weights.shape)}: [H, {len(self.state_names)}, {self.action_dim}] is "
                "wanted; it belongs to another robot"
            )
        if state.dim != len(self.state_names):
            raise ValueError(f"statistics of {state.dim} dimensions for an encoded state of {len(self.state_names)}")

    @classmethod
    def fit(
        cls,
        states: Array | None,
        actions: Array,
        chunks: tuple[Array | None, Array, Array],
        spec: ActionSpec,
        *,
        groups: Sequence[str] | None = None,
    ) -> ActionCodec:
        """Statistics of training data (never of what is held out).

        states [N, Ds] and actions [N, Da]: one row a frame. chunks: (state [M, Ds], action [M, H, Da], mask bool [M, H], False
        past an episode's end). States are None where spec.state_dim is 0. Absolute parts take their statistics from
        `actions`, what is delta, relative, per step or beside a linear base from `chunks`. Masked steps and NaN are left out.
        A few ten thousand chunks drawn at random suffice; all are held in memory. groups [M]: the episode of each chunk, by
        which a linear base is cross-validated.

        Raises ValueError for shapes that do not fit, and where a dimension (of a step) has no value.
        """
        frames = np.zeros((len(actions), 0)) if states is None else _numpy(states)
        start = None if chunks[0] is None else _numpy(chunks[0])
        rows, chunk, mask = _numpy(actions), _numpy(chunks[1]), _numpy(chunks[2]).astype(np.bool_)
        _expect("states", frames, (None, spec.state_dim))
        _expect("actions", rows, (None, spec.action_dim))
        _expect("chunks of actions", chunk, (None, None, spec.action_dim))
        _expect("mask of chunks", mask, chunk.shape[:2])
        if start is not None:
            _expect("states of chunks", start, (chunk.shape[0], spec.state_dim))
        unrolled = _unroll_state(spec, frames)
        resolution = np.array([RESOLUTION_6D if turned else 0.0 for _, turned in _state_columns(spec)])
        state = Normaliser.fit(unrolled, spec.state_normalisation, clip=spec.state_clip, resolution=resolution)
        base = None
        if spec.linear_base:
            if start is None:
                raise ValueError("linear_base: it needs the states of the chunks, and none are given")
            whole, there = np.concatenate([represent(spec, part, start, chunk) for part in spec.parts], -1), mask
            for part in spec.parts:
                there = there & represented_steps(part, mask)
            encoded = state.encode(_unroll_state(spec, start))
            base = LinearBase.fit(encoded, whole, there, groups)
            guesses = _pieces(spec, base.predict(encoded))
        fitted = {}
        for part in spec.parts:
            finest: float | NDArray[np.float64] = 0.0 if part.rotation == "none" else RESOLUTION_6D
            if part.needs_state or part.per_step or base is not None:
                values, known = represent(spec, part, start, chunk), represented_steps(part, mask)
            else:
                values, known = represent(spec, part, None, rows[:, None]), np.ones((len(rows), 1), np.bool_)
            if base is not None:  # what is left of a number that the state tells is its rounding, not a motion
                size = np.abs(np.where(known[..., None], values, 0.0))
                finest = np.maximum(finest, ROUNDING * np.nanmax(size, (0, 1), initial=0.0))
                values = values - guesses[part.name]
            try:
                fitted[part.name] = Normaliser.fit(
                    values,
                    part.normalisation,
                    mask=known,
                    per_step=part.per_step,
                    clip=part.clip,
                    resolution=finest,
                )
            except ValueError as error:
                raise ValueError(f"action part '{part.name}': {error}") from error
        return cls(spec, state, fitted, base)

    @property
    def state_dim(self) -> int:
        """Numbers of an encoded state."""
        return self.state.dim

    @property
    def action_dim(self) -> int:
        """Numbers of an encoded action."""
        return sum(part.width for part in self.spec.parts)

    @property
    def horizon(self) -> int | None:
        """The only chunk length it takes, where a part has statistics per step or there is a linear base; None: any."""
        if self.base is not None:
            return self.base.horizon
        return next((fitted.horizon for fitted in self.actions.values() if fitted.per_step), None)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of each encoded state number; a rotation's are called by its first number's name and r11 to r23."""
        return tuple(name for name, _ in _state_columns(self.spec))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of each encoded action number. Raw ones are named by `spec.names_of_action`."""
        raw = self.spec.names_of_action
        return tuple(
            name
            for part in self.spec.parts
            for name in (
                (raw[dim] for dim in part.dims)
                if part.rotation == "none"
                else (f"{part.name}.{entry}" for entry in NAMES_6D)
            )
        )

    @property
    def constant(self) -> tuple[str, ...]:
        """Encoded state (`state: NAME`) and action (`action: NAME`) numbers that never moved in the data."""
        still = [*(flag for part in self.spec.parts for flag in _still(self.actions[part.name]))]
        states = [f"state: {self.state_names[dim]}" for dim in self.state.constant]
        return (*states, *(f"action: {name}" for name, flag in zip(self.action_names, still, strict=True) if flag))

    def encode_state(self, state: Array) -> NDArray[np.float32]:
        """Raw [.., Ds] to normalised float32 [.., state_dim]. Raises ValueError for another width, and for NaN."""
        raw = _numpy(state)
        _expect("state", raw, (..., self.spec.state_dim))
        encoded = self.state.encode(_unroll_state(self.spec, raw))
        _expect_numbers(encoded, self.state_names, "leave such states out")
        return encoded.astype(np.float32)

    def encode_action(self, state: Array | None, chunk: Array, mask: Array | None = None) -> NDArray[np.float32]:
        """Raw chunk [.., H, Da], beside the raw state [.., Ds] at its beginning, to normalised float32 [.., H, action_dim].

        mask bool [.., H] is False where an action is unknown: whatever stands there is encoded as 0. The state may be None where
        all parts are absolute. Raises ValueError for shapes that do not fit, a horizon that statistics per step were not made
        for, and numbers that are none (NaN, quaternions of length zero) where the mask does not hide them.
        """
        raw, start = _numpy(chunk), None if state is None else _numpy(state)
        _expect("action chunk", raw, (..., self.horizon, self.spec.action_dim))
        if start is not None:
            _expect("state", start, (..., self.spec.state_dim))
        guesses = self._guesses(start)
        represented = {part.name: represent(self.spec, part, start, raw) for part in self.spec.parts}
        encoded = np.concatenate(
            [self.actions[name].encode(values - guesses.get(name, 0.0)) for name, values in represented.items()],
            axis=-1,
        )
        if mask is not None:
            known = _numpy(mask).astype(np.bool_)
            _expect("mask", known, raw.shape[:-1])
            known = self.known_steps(known)
            encoded = np.where(known[..., None], encoded, 0.0)
        _expect_numbers(encoded, self.action_names, "give the mask of the steps that are known, or mend the data")
        return encoded.astype(np.float32)

    def known_steps(self, mask: Array) -> NDArray[np.bool_]:
        """Steps [.., H] that can be encoded, of a mask [.., H] of known actions: all of them, but that a delta also needs the step
        before it. They differ only for masks with holes."""
        known = _numpy(mask).astype(np.bool_)
        for part in self.spec.parts:
            known = known & represented_steps(part, _numpy(mask).astype(np.bool_))
        return known

    def decode_action(self, state: Array | None, encoded: Array) -> NDArray[np.float32]:
        """Encoded [.., H, action_dim] to a raw chunk, float32 [.., H, Da]: the inverse of `encode_action`.

        Raises ValueError for shapes that do not fit, another horizon than that of statistics per step, and a missing state.
        """
        numbers, start = _numpy(encoded), None if state is None else _numpy(state)
        _expect("encoded action chunk", numbers, (..., self.horizon, self.action_dim))
        if start is not None:
            _expect("state", start, (..., self.spec.state_dim))
        guesses = self._guesses(start)
        represented = {
            name: self.actions[name].decode(piece) + guesses.get(name, 0.0)
            for name, piece in _pieces(self.spec, numbers).items()
        }
        return restore(self.spec, start, represented).astype(np.float32)

    def _guesses(self, start: NDArray[Any] | None) -> dict[str, NDArray[np.float64]]:
        """Part -> what the linear base says of it, [.., H, width]; empty without a base."""
        if self.base is None:
            return {}
        if start is None:
            raise ValueError("these actions are counted from a linear base: they need the state, and none is given")
        return _pieces(self.spec, self.base.predict(self.state.encode(_unroll_state(self.spec, start))))

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint: plain dicts, lists and numbers; `from_json` restores the same bits."""
        return {
            "format": FORMAT,
            "spec": self.spec.to_json(),
            "state": self.state.to_json(),
            "actions": {name: fitted.to_json() for name, fitted in self.actions.items()},
            "linear_base": None if self.base is None else self.base.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionCodec:
        """Inverse of `to_json`. Raises ValueError for another format, and for what is missing or does not fit."""
        if values.get("format") != FORMAT:
            raise ValueError(f"action codec of format {values.get('format')!r}: this version of giza reads {FORMAT}")
        if missing := [name for name in ("spec", "state", "actions") if name not in values]:
            raise ValueError(f"action codec without {', '.join(missing)}: the checkpoint is incomplete")
        spec = ActionSpec.from_json(values["spec"])
        if missing := [part.name for part in spec.parts if part.name not in values["actions"]]:
            raise ValueError(f"action codec without statistics of {', '.join(missing)}: the checkpoint is incomplete")
        actions = {part.name: Normaliser.from_json(values["actions"][part.name]) for part in spec.parts}
        base = values.get("linear_base")
        fitted = None if base is None else LinearBase.from_json(base)
        return cls(spec, Normaliser.from_json(values["state"]), actions, fitted)


def _numpy(values: Array) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor; numpy knows neither its gradients, nor its devices, nor bfloat16
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
        return np.asarray(values.numpy())
    return np.asarray(values)


def _expect(what: str, values: NDArray[Any], shape: tuple[Any, ...]) -> None:
    """Raises ValueError unless `values` has this shape; None stands for any size, a leading ... for any axes."""
    wanted = shape[1:] if shape[:1] == (...,) else shape
    enough = values.ndim >= len(wanted) if wanted is not shape else values.ndim == len(wanted)
    sizes = values.shape[values.ndim - len(wanted) :] if enough else ()
    if not enough or any(want not in (None, size) for want, size in zip(wanted, sizes, strict=True)):
        written = ", ".join("..." if size is ... else "any" if size is None else str(size) for size in shape)
        raise ValueError(f"{what} of shape {list(values.shape)}: [{written}] is wanted")


def _expect_numbers(encoded: NDArray[np.float64], names: Sequence[str], remedy: str) -> None:
    finite = np.isfinite(encoded)
    if not finite.all():
        wrong = np.flatnonzero(np.logical_not(finite.reshape(-1, encoded.shape[-1]).all(0)))
        named = [names[int(i)] for i in wrong]
        raise ValueError(f"NaN, infinite numbers or no rotation, in {', '.join(named)}: {remedy}")


def _state_columns(spec: ActionSpec) -> list[tuple[str, bool]]:
    """(name, whether of a rotation) of each encoded state number; a rotation stands where its first number stood."""
    raw, rotations = spec.names_of_state, {dims[0]: dims for dims, _ in spec.state_rotations}
    swallowed = {dim for dims in rotations.values() for dim in dims}
    columns: list[tuple[str, bool]] = []
    for dim in range(spec.state_dim):
        if dim in rotations:
            columns += [(f"{raw[dim]}.{entry}", True) for entry in NAMES_6D]
        elif dim not in swallowed:
            columns.append((raw[dim], False))
    return columns


def _unroll_state(spec: ActionSpec, state: NDArray[Any]) -> NDArray[np.float64]:
    """Raw states with their rotations as 6D, not normalised."""
    rotations = {dims[0]: (dims, kind) for dims, kind in spec.state_rotations}
    swallowed = {dim for dims, _ in rotations.values() for dim in dims}
    columns = [np.empty((*state.shape[:-1], 0), np.float64)]
    for dim in range(spec.state_dim):
        if dim in rotations:
            dims, kind = rotations[dim]
            columns.append(matrix_to_rotation_6d(to_matrix(kind, state[..., list(dims)])))
        elif dim not in swallowed:
            columns.append(state[..., dim : dim + 1].astype(np.float64))
    return np.concatenate(columns, axis=-1)


def _pieces(spec: ActionSpec, numbers: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Part -> its numbers, of encoded chunks [.., H, action_dim]."""
    edges = np.cumsum([part.width for part in spec.parts])[:-1]
    return dict(zip((part.name for part in spec.parts), np.split(numbers, edges, axis=-1), strict=True))


def _still(fitted: Normaliser) -> list[bool]:
    return [dim in fitted.constant for dim in range(fitted.dim)]
