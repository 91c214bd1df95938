"""What a robot's states and actions are made of: parts, each with its own representation, rotation and normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corpora.episodes.parts import ActionPart, Normalisation, Representation, RotationKind


@dataclass(frozen=True)
class ActionSpec:
    """A robot's state and action, and how the policy is to see them."""

    state_dim: int
    """Numbers of a state; 0: the robot tells none."""
    action_dim: int
    """Numbers of an action."""
    parts: tuple[ActionPart, ...]
    """Every number of the action belongs to exactly one part. Encoded actions have the parts in this order."""
    state_normalisation: Normalisation = "q01_q99"
    """Of the state; rotations that a part names in it are written as 6D first."""
    state_clip: float | None = None
    """Normalised states are cut to [-state_clip, state_clip]: states are never decoded, and a robot may leave the range."""
    state_names: tuple[str, ...] = ()
    """Names of the state's numbers; empty: state.0, state.1, ..."""
    action_names: tuple[str, ...] = ()
    """Names of the action's numbers; empty: made of the parts' names."""
    linear_base: bool = False
    """The policy learns only what a ridge from the encoded state leaves of a chunk, see vla/linear_base.py. With few
    demonstrations that is strong open loop, the more so where the state holds the last action. It is also a trap: to go on
    as the last action did needs no picture, and in closed loop, where that action was the policy's own, such a copycat
    (de Haan et al. 2019, causal confusion) may drift, or never begin to move. Measure closed loop before you rely on it."""

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"action parts {names}: each name is given once")
        taken = sorted(dim for part in self.parts for dim in part.dims)
        if taken != list(range(self.action_dim)) or not taken:
            raise ValueError(
                f"action parts cover the dimensions {taken}: each of 0 to {self.action_dim - 1} belongs to exactly one part"
            )
        for part in self.parts:
            dims = part.state_dims or ()
            if len(set(dims)) != len(dims) or any(not 0 <= dim < self.state_dim for dim in dims):
                raise ValueError(
                    f"action part '{part.name}': state_dims {dims}; the state has dimensions 0 to {self.state_dim - 1}, "
                    "and a part names each once"
                )
            if part.frame and not self._is_frame(part):
                raise ValueError(
                    f"action part '{part.name}': frame '{part.frame}' is no part with a rotation and state_dims; there are {names}"
                )
        groups = self.state_rotations
        owned = [dim for dims, _ in groups for dim in dims]
        if len(set(owned)) != len(owned):
            raise ValueError(
                f"state rotations {groups} overlap: one number of the state belongs to one rotation, written in one way"
            )
        if self.linear_base and not self.state_dim:
            raise ValueError(
                "linear_base with 0 state dimensions: it is linear in the state; choose a state, or do without"
            )
        for what, given, width in (
            ("state", self.state_names, self.state_dim),
            ("action", self.action_names, self.action_dim),
        ):
            if given and len(given) != width:
                raise ValueError(f"{len(given)} {what}_names for {width} dimensions: name all of them, or none")

    @classmethod
    def simple(
        cls,
        state_dim: int,
        action_dim: int,
        representation: Representation = "absolute",
        normalisation: Normalisation = "q01_q99",
        *,
        per_step: bool = False,
        state_names: tuple[str, ...] = (),
        action_names: tuple[str, ...] = (),
    ) -> ActionSpec:
        """One part, 'action', without rotations. It lies in the state where both are equally wide; otherwise nothing says where,
        and delta and relative raise ValueError."""
        alike = tuple(range(action_dim)) if state_dim == action_dim else None
        part = ActionPart(
            "action", tuple(range(action_dim)), alike, representation, normalisation=normalisation, per_step=per_step
        )
        return cls(
            state_dim,
            action_dim,
            (part,),
            state_normalisation=normalisation,
            state_names=state_names,
            action_names=action_names,
        )

    @property
    def needs_state(self) -> bool:
        """Whether any part does, or the linear base."""
        return self.linear_base or any(part.needs_state for part in self.parts)

    @property
    def state_rotations(self) -> list[tuple[Sequence[int], RotationKind]]:
        """The rotations in the state: where each lies and how it is written. Parts may share one."""
        found = [
            (part.state_dims, part.rotation_of_state)
            for part in self.parts
            if part.state_dims and part.rotation_of_state != "none"
        ]
        return list(dict.fromkeys(found))

    @property
    def names_of_state(self) -> tuple[str, ...]:
        """Of each number of the raw state."""
        return self.state_names or tuple(f"state.{dim}" for dim in range(self.state_dim))

    @property
    def names_of_action(self) -> tuple[str, ...]:
        """Of each number of the raw action."""
        if self.action_names:
            return self.action_names
        made = {dim: f"{part.name}.{i}" for part in self.parts for i, dim in enumerate(part.dims)}
        return tuple(made[dim] for dim in range(self.action_dim))

    def part(self, name: str) -> ActionPart:
        """The part of that name. Raises KeyError where there is none."""
        return {part.name: part for part in self.parts}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionSpec:
        """Inverse of `to_json`, also after a file. Raises ValueError for fields that are unknown or missing."""
        parts = tuple(_from_fields(ActionPart, part) for part in values.get("parts", ()))
        return _from_fields(cls, {**values, "parts": parts})

    def _is_frame(self, part: ActionPart) -> bool:
        return any(p.name == part.frame and p.rotation != "none" and p.state_dims for p in self.parts)


def _from_fields(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    if (set(values) - known) or (needed - set(values)):
        raise ValueError(
            f"{kind.__name__} with unknown fields {sorted(set(values) - known)}, without {sorted(needed - set(values))}: "
            "made by another version of giza"
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
