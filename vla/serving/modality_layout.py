"""Which cameras, and which named parts of state and action, a policy has for one robot.

GR00T's clients name parts ("state.left_arm", "action.gripper"); a policy has one vector. A layout says which dimensions
of the vector each name stands for, in the form of GR00T's meta/modality.json:
{"video": {"ego_view": {}}, "state": {"arm": {"start": 0, "end": 7}}, "action": {...}, "annotation": {...}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla.embodiment import Embodiment
from vla.serving.wire import Dialect, ModalityConfig

INSTRUCTION_KEY = "annotation.human.task_description"
"""Key of the instruction where a layout names none, as in GR00T's examples."""


@dataclass(frozen=True)
class VectorPart:
    """Dimensions [start, end) of a state or action vector, under a name."""

    name: str
    start: int
    end: int

    @property
    def width(self) -> int:
        """Dimensions."""
        return self.end - self.start


@dataclass(frozen=True)
class ModalityLayout:
    """Names of what one robot sends and receives."""

    cameras: tuple[str, ...]
    """In the order of the policy's cameras."""
    state: tuple[VectorPart, ...]
    """Cover the state vector without gap or overlap; empty for a policy without states."""
    action: tuple[VectorPart, ...]
    """Parts of the action vector that are sent back."""
    instruction_key: str = INSTRUCTION_KEY
    """Key of the instruction."""

    def __post_init__(self) -> None:
        for kind, names in (
            ("camera", self.cameras),
            ("state part", [part.name for part in self.state]),
            ("action part", [part.name for part in self.action]),
        ):
            if len(set(names)) != len(names) or not all(names):
                raise ValueError(f"{kind}s {list(names)}: each needs a name of its own")
        for part in (*self.state, *self.action):
            if not 0 <= part.start < part.end:
                raise ValueError(f"part '{part.name}' {part.start}:{part.end}: must be a range of dimensions, e.g. 0:7")
        if not self.action or not self.cameras:
            raise ValueError(
                "a layout needs at least one camera and one action part: there is nothing to serve without"
            )
        place = 0
        for part in sorted(self.state, key=lambda part: part.start):
            if part.start != place:
                raise ValueError(
                    f"state part '{part.name}' starts at {part.start}: must start at {place}, so that all parts together "
                    "give the whole state"
                )
            place = part.end

    @property
    def state_dim(self) -> int:
        """Width of the state vector."""
        return max((part.end for part in self.state), default=0)

    @property
    def action_dim(self) -> int:
        """Smallest width of the action vector that holds all parts."""
        return max(part.end for part in self.action)

    def to_json(self) -> dict[str, Any]:
        """In the form of modality.json; keeps the cameras' order."""

        def parts(chosen: Sequence[VectorPart]) -> dict[str, Any]:
            return {part.name: {"start": part.start, "end": part.end} for part in chosen}

        return {
            "video": {name: {} for name in self.cameras},
            "state": parts(self.state),
            "action": parts(self.action),
            "annotation": {self.instruction_key.removeprefix("annotation."): {}},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, cameras: Sequence[str] | None = None) -> ModalityLayout:
        """From the content of a modality.json.

        `cameras`: the policy's, by name or by video feature ("observation.images.ego_view"); they choose and order the
        file's. Raises ValueError for a record that is damaged or lacks one of them.
        """
        try:
            videos = {
                str(name): str((entry or {}).get("original_key") or name) for name, entry in record["video"].items()
            }
            annotations = [str(name) for name in record.get("annotation") or {}]
            state, action = (_parts(record.get(kind) or {}) for kind in ("state", "action"))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"modality.json cannot be read ({type(error).__name__}: {error}): it needs video, state and action, each a "
                "map of names, with start and end for the parts of state and action"
            ) from error
        # of several annotations the one that says what to do; a judgement of the recording is none
        annotations = sorted(
            (n for n in annotations if not n.endswith("validity")), key=lambda n: not n.endswith("task_description")
        )
        key = annotations[0] if annotations else INSTRUCTION_KEY
        if "." in key and not key.startswith("annotation."):
            key = f"annotation.{key}"
        return cls(tuple(videos) if cameras is None else _chosen(videos, cameras), state, action, key)

    def configs(self, *, horizon: int, history: Sequence[int], dialect: Dialect) -> dict[str, ModalityConfig]:
        """What get_modality_config answers: for video, state, action and language, names and steps around the present.

        `history`: steps of the frames that are seen, e.g. (-5, 0). N1.5 writes a modality before each name
        ("state.arm"), later generations do not.
        """
        before = {"video": "video.", "state": "state.", "action": "action."} if dialect == "n1.5" else {}
        names: dict[str, tuple[Sequence[int], Sequence[str]]] = {
            "video": (history, self.cameras),
            "state": ((0,), [part.name for part in self.state]),
            "action": (range(horizon), [part.name for part in self.action]),
            "language": ((0,), [self.instruction_key]),
        }
        return {
            kind: ModalityConfig(tuple(steps), tuple(before.get(kind, "") + name for name in keys))
            for kind, (steps, keys) in names.items()
        }


def layout_of(embodiment: Embodiment, record: Mapping[str, Any] | None = None) -> ModalityLayout:
    """The layout of a robot: of `record` (a modality.json), of the checkpoint's own (`Embodiment.modality`), or,
    where there is none, its cameras and the parts of its action space.

    Parts that do not lie together become one, named "state" or "action". Raises ValueError for a record that does not
    fit the robot.
    """
    spec = embodiment.action_space
    record = record or embodiment.modality
    if not record:
        state = _tiling("state", {part.name: part.state_dims or () for part in spec.parts}, spec.state_dim)
        action = _tiling("action", {part.name: part.dims for part in spec.parts}, spec.action_dim)
        return ModalityLayout(tuple(map(_last, embodiment.cameras)), state, action)
    layout = ModalityLayout.from_json(record, cameras=embodiment.cameras)
    if layout.state_dim != spec.state_dim or layout.action_dim > spec.action_dim:
        raise ValueError(
            f"modality: its parts make a state of {layout.state_dim} and an action of {layout.action_dim} dimensions, "
            f"'{embodiment.name}' has {spec.state_dim} and {spec.action_dim} in this policy: give parts that fit the policy's "
            "vectors"
        )
    return layout


def _tiling(kind: str, dims: Mapping[str, Sequence[int]], width: int) -> tuple[VectorPart, ...]:
    """A part for each name whose dimensions are a range, where these fill the vector; else one part, the whole."""
    named = {name: list(places) for name, places in dims.items() if places}
    ranges = all(places == list(range(places[0], places[-1] + 1)) for places in named.values())
    if ranges and sorted(place for places in named.values() for place in places) == list(range(width)):
        return tuple(VectorPart(name, places[0], places[-1] + 1) for name, places in named.items())
    return (VectorPart(kind, 0, width),) if width else ()


def _parts(record: Mapping[str, Any]) -> tuple[VectorPart, ...]:
    return tuple(VectorPart(str(name), int(entry["start"]), int(entry["end"])) for name, entry in record.items())


def _chosen(videos: Mapping[str, str], cameras: Sequence[str]) -> tuple[str, ...]:
    """The name in `videos` (name -> video feature) of each camera."""
    found = []
    for camera in cameras:
        names = [name for name, feature in videos.items() if camera in (name, feature) or _last(camera) == name]
        if not names:
            raise ValueError(f"camera '{camera}' of the policy is none of modality.json's videos {list(videos)}")
        found.append(names[0])
    return tuple(found)


def _last(camera: str) -> str:
    return camera.rpartition(".")[2]
