"""The parts of a robot's action: what each is, where it lies in the action and in the state, and how a policy is to see it.

Parts are written in TOML as `[[action_parts]]` tables, of a dataset of a mixture or in a file of their own:

    [[action_parts]]
    name = "wrist"
    dims = "3:7"                    # or [3, 4, 5, 6]; of the action that is chosen
    state_dims = "10:14"            # the same quantity in the proprioceptive state
    rotation = "quaternion_xyzw"
    representation = "relative"
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Representation = Literal["absolute", "delta", "relative"]
"""absolute: as recorded; delta: to the step before, the first to the state; relative: to the state at the chunk's beginning."""
RotationKind = Literal["none", "quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "axis_angle", "rotation_6d"]
"""How a robot writes a rotation; none: the numbers are no rotation. euler_xyz: roll, pitch, yaw about the fixed axes x, y, z.
rotation_6d: the first two rows of its matrix, as GR00T N1.7's eef_9d has them behind x, y, z."""
Normalisation = Literal["min_max", "mean_std", "q01_q99", "none"]
"""min_max and q01_q99: the range to [-1, 1]; mean_std: (x - mean) / std; none: unchanged."""

ROTATION_WIDTH: dict[str, int] = {
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "euler_xyz": 3,
    "axis_angle": 3,
    "rotation_6d": 6,
}
"""Numbers of each kind of rotation."""
NAMES_6D = ("r11", "r12", "r13", "r21", "r22", "r23")
"""Names of the six numbers that a policy sees of a rotation, by row and column of its matrix."""
TABLE = "action_parts"
"""Name of the tables in TOML."""


@dataclass(frozen=True)
class ActionPart:
    """One part of an action: the joints of an arm, a position of the hand, its rotation, a gripper."""

    name: str
    """Unique in its robot."""
    dims: Sequence[int]
    """Where it lies in the action; kept as a tuple."""
    state_dims: Sequence[int] | None = None
    """The same quantity in the state, in the same order and unit; None: the state does not hold it."""
    representation: Representation = "absolute"
    """absolute also fits actions that a dataset already records as changes."""
    rotation: RotationKind = "none"
    """How the robot writes this rotation; the policy sees 6D. none: the numbers are no rotation."""
    state_rotation: RotationKind | None = None
    """How the state writes it, where that differs from the action; None: alike."""
    frame: str = ""
    """For a position [x, y, z] that is delta or relative: the name of the rotation part that turns with it. Its motion is
    then seen from the hand, not from the robot's base (GR00T N1.7's relative end effector: T_state^-1 T_action)."""
    normalisation: Normalisation = "q01_q99"
    """Of what the representation (and 6D) make of it."""
    per_step: bool = False
    """Statistics of each step of a chunk (GR00T N1.7's relative actions): what is relative grows over the chunk."""
    clip: float | None = None
    """Normalised actions are cut to [-clip, clip], when they are learned and when they are done; None: to the range of the
    data that the normalisation takes; 0: not at all."""
    displacement: bool | None = None
    """true: the robot is told how far (or how fast) to move, so zero leaves it at rest; false: where to be, or a command that
    lasts. None: its data tell, where the state holds the same quantity."""

    @property
    def width(self) -> int:
        """Encoded numbers."""
        return len(NAMES_6D) if self.turns else len(self.dims)

    @property
    def turns(self) -> bool:
        """Whether its numbers are a rotation."""
        return self.rotation != "none"

    @property
    def rotation_of_state(self) -> RotationKind:
        """`state_rotation`, or `rotation` where it is None."""
        return self.state_rotation or self.rotation

    @property
    def needs_state(self) -> bool:
        """Whether it can only be encoded and decoded beside a state."""
        return self.representation != "absolute"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if self.state_dims is not None:
            object.__setattr__(self, "state_dims", tuple(self.state_dims))
        here = f"action part '{self.name}'"
        if self.representation not in get_args(Representation):
            raise ValueError(f"{here}: representation '{self.representation}' is none of {get_args(Representation)}")
        check_kind("rotation", self.rotation, RotationKind)
        check_kind("rotation", self.rotation_of_state, RotationKind)
        check_kind("normalisation", self.normalisation, Normalisation)
        if not self.name or not self.dims:
            raise ValueError(f"{here} with dims {self.dims}: a part has a name and at least one dimension")
        if self.needs_state and not self.state_dims:
            raise ValueError(
                f"{here} is {self.representation}, but the state does not hold it: give its state_dims, or make it absolute"
            )
        self._check_rotations(here)
        if self.frame and (self.turns or len(self.dims) != 3 or not self.needs_state):
            raise ValueError(f"{here}: frame '{self.frame}' is for a position [x, y, z] that is delta or relative")

    def _check_rotations(self, here: str) -> None:
        if not self.turns:
            if self.state_rotation not in (None, "none"):
                raise ValueError(f"{here}: state_rotation '{self.state_rotation}' beside rotation 'none': name both")
            if self.state_dims is not None and len(self.state_dims) != len(self.dims):
                raise ValueError(
                    f"{here}: {len(self.dims)} dims, but {len(self.state_dims)} state_dims; they name the same numbers"
                )
            return
        if self.rotation_of_state == "none":
            raise ValueError(f"{here}: state_rotation 'none' beside rotation '{self.rotation}': name both, or neither")
        for kind, dims in ((self.rotation, self.dims), (self.rotation_of_state, self.state_dims)):
            if dims is not None and len(dims) != ROTATION_WIDTH[kind]:
                raise ValueError(
                    f"{here}: rotation '{kind}' has {ROTATION_WIDTH[kind]} numbers, but {dims} names {len(dims)}"
                )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionPart:
        """Of a TOML table or a JSON object; dims are a list or "7:14". Raises ValueError for fields unknown or missing."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - known), sorted({"name", "dims"} - set(values))
        if unknown or missing:
            raise ValueError(
                f"action part '{values.get('name', '')}': unknown fields {unknown}, missing fields {missing}; a part has "
                f"{', '.join(field.name for field in dataclasses.fields(cls))}"
            )
        dims = {name: _dims(name, values[name]) for name in ("dims", "state_dims") if values.get(name) is not None}
        return cls(**{**values, **dims})


def parts_of(tables: Iterable[Mapping[str, Any]]) -> tuple[ActionPart, ...]:
    """The parts of `[[action_parts]]` tables. Raises ValueError for a wrong one."""
    return tuple(ActionPart.from_json(table) for table in tables)


def read_parts(path: Path) -> tuple[ActionPart, ...]:
    """The parts of a TOML file. Raises ValueError, naming the file, where it cannot be read or holds none."""
    try:
        values = tomllib.loads(path.expanduser().read_text("utf-8"))
        if set(values) != {TABLE} or not isinstance(values[TABLE], list):
            raise ValueError(f"it holds {sorted(values)}: [[{TABLE}]] tables alone are wanted")
        return parts_of(values[TABLE])
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"action parts '{path}': {error}") from error


def check_kind(what: str, kind: str, known: Any) -> None:
    """Raises ValueError for a kind that is none of those `known`, a Literal."""
    if kind not in get_args(known):
        raise ValueError(f"{what} '{kind}': choose one of {', '.join(get_args(known))}")


def _dims(field: str, value: Any) -> tuple[int, ...]:
    """[3, 4] or "3:5"."""
    if isinstance(value, str):
        first, colon, end = value.partition(":")
        if colon and first.isdigit() and end.isdigit() and int(first) < int(end):
            return tuple(range(int(first), int(end)))
    elif isinstance(value, Sequence) and all(type(dim) is int and dim >= 0 for dim in value):
        return tuple(value)
    raise ValueError(f'{field} = {value!r}: numbers of dimensions, e.g. [0, 1, 2] or "0:3"')
