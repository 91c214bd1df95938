"""One slot, one meaning: whether data that join an embodiment of a policy, new or known, mean what its slot means, and where
in the data each thing of the slot lies. Training, evaluation and serving ask here."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corpora.episodes.parts import ActionPart
from corpora.mixture.label_type import Actions
from corpora.mixture.labels import EmbodimentFacts
from corpora.video.image import SquaredBy
from corpora.video.view import View, view_told
from vla.actions.names import places
from vla.embodiment import Embodiment

log = logging.getLogger(__name__)

SAME_STEP = 0.01
"""Two steps that differ by no more than this share are one."""
UNSAID = Actions("absolute", "q01_q99")
"""What is taken where no dataset of a new slot says anything."""
_NUMBERED = re.compile(r"(state|action)\.\d+")
"""Names that giza gives where the data have none."""
_SQUARED = {"stretch": "whole ones, stretched to a square", "crop": "middle squares (--fit crop)"}
_TOLD = 12
"""Names that a message lists."""


@dataclass(frozen=True)
class Slot:
    """What all data of one embodiment have in common."""

    name: str
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    step_s: float
    """0: its steps are no moments."""
    squared_by: SquaredBy = ""
    """See `Embodiment`."""
    made_by: str = ""
    """Of latents."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Camera -> how its pictures are painted; others are as the camera sees them."""

    @classmethod
    def of(cls, known: Embodiment) -> Slot:
        """Of an embodiment that the policy knows."""
        space = known.action_space
        names = space.state_names, space.action_names
        return cls(known.name, known.cameras, *names, known.step_s, known.squared_by, known.made_by, known.views)

    @classmethod
    def new(cls, name: str, facts: Sequence[EmbodimentFacts]) -> Slot:
        """Of the data that make it: names and order of the first, the cameras of all, the slowest's step."""
        cameras: list[str] = []
        views: dict[str, View] = {}
        for each in facts:
            found = [
                camera
                for camera, place in zip(each.cameras, places(each.cameras, cameras), strict=True)
                if place is None
            ]
            cameras += found
            views |= {camera: each.views[camera] for camera in found if camera in each.views}
        slowest = max(each.step_s for each in facts)
        first_s = facts[0].step_s if same_step(slowest, facts[0].step_s) else slowest
        first = facts[0]
        squared_by: SquaredBy = next((each.squared_by for each in facts if each.squared_by), "")
        names = first.state_names, first.action_names
        return cls(name, tuple(cameras), *names, first_s, squared_by, first.made_by, views)


@dataclass(frozen=True)
class Placement:
    """Where in the data each thing of a slot lies."""

    cameras: tuple[int | None, ...]
    """Of each camera of the slot; None: the data have none of this name, and it is masked."""
    state: tuple[int, ...]
    """Of each number of the slot's state."""
    action: tuple[int, ...]
    """Of each number of the slot's action."""


def same_step(one_s: float, other_s: float) -> bool:
    """Whether two steps are one."""
    return math.isclose(one_s, other_s, rel_tol=SAME_STEP)


def place(facts: EmbodimentFacts, slot: Slot) -> Placement:
    """Where the slot's things lie in data of these facts, by name. What the data have besides is left out, and told. Labels
    (with a codec of their own) may come without a state. Raises ValueError, with both sides named, for numbers that the data
    lack, where no camera is the slot's, for images made square in another way, and for slower steps; faster data are to be
    read at the slot's."""
    if facts.step_s > slot.step_s * (1 + SAME_STEP) or bool(facts.step_s) != bool(slot.step_s):
        raise ValueError(
            f"its steps are {facts.step_s:.4f} s apart, those of embodiment '{slot.name}' {slot.step_s:.4f} s, and what was done "
            "between its rows is not known; give another embodiment (--start-from keeps the weights)"
        )
    if facts.made_by and slot.made_by not in ("", facts.made_by):  # "": of earlier versions, which did not keep it
        raise ValueError(
            f"its latents are of {facts.made_by}, those of embodiment '{slot.name}' of {slot.made_by}: their numbers mean "
            "different things; extract them with the same model and gap, or give another embodiment"
        )
    if facts.squared_by and slot.squared_by not in ("", facts.squared_by):
        raise ValueError(
            f"its images are {_SQUARED[facts.squared_by]}, those of embodiment '{slot.name}' {_SQUARED[slot.squared_by]}: one "
            "place in them is two places before the camera; giza ingest the videos with --fit "
            f"{slot.squared_by}, or give another embodiment"
        )
    following = facts.codec is not None and not facts.state_names
    state = () if following else _numbers("state", slot.state_names, facts.state_names, slot.name)
    action = _numbers("action", slot.action_names, facts.action_names, slot.name)
    cameras = place_cameras(slot, facts.cameras)
    _check_views(slot, facts, cameras)
    return Placement(cameras, state, action)


def place_cameras(slot: Slot, found: Sequence[str]) -> tuple[int | None, ...]:
    """Where the slot's cameras are among those that are found. Raises ValueError where none is."""
    cameras = places(slot.cameras, found)
    if all(place is None for place in cameras):
        raise ValueError(
            f"the cameras {_listed(found)} are none of those of embodiment '{slot.name}', {_listed(slot.cameras)}; give "
            "another embodiment (--start-from keeps the weights)"
        )
    if extra := [name for number, name in enumerate(found) if number not in cameras]:
        log.warning("embodiment '%s' has no camera %s: it is not looked at", slot.name, _listed(extra))
    if lacking := [name for name, place in zip(slot.cameras, cameras, strict=True) if place is None]:
        log.info("camera %s of embodiment '%s' is not in these data: it is masked", _listed(lacking), slot.name)
    return cameras


def _check_views(slot: Slot, facts: EmbodimentFacts, cameras: Sequence[int | None]) -> None:
    """Raises ValueError where a camera's pictures are not painted as the slot's are, naming both."""
    for name, place in zip(slot.cameras, cameras, strict=True):
        if place is None:
            continue
        wanted, found = slot.views.get(name), facts.views.get(facts.cameras[place])
        if wanted != found:
            raise ValueError(
                f"its pictures of camera {facts.cameras[place]} are {view_told(found)}, those of embodiment '{slot.name}' "
                f"{view_told(wanted)}: one embodiment has one view; paint them alike with giza crosspaint, or give another "
                "embodiment"
            )


def _numbers(kind: str, wanted: Sequence[str], found: Sequence[str], slot: str) -> tuple[int, ...]:
    """Where each number of the slot lies in the data."""
    if wanted and len(found) == len(wanted) and all(map(_NUMBERED.fullmatch, wanted)):
        if list(found) != list(wanted):
            log.warning("embodiment '%s' has no names of its %s: the data's are taken as they lie", slot, kind)
        return tuple(range(len(wanted)))
    where = places(wanted, found)
    lacking = [name for name, place in zip(wanted, where, strict=True) if place is None]
    extra = [name for number, name in enumerate(found) if number not in where]
    if lacking or (extra and _NUMBERED.fullmatch(extra[0])):  # of numbers without names only all together mean the same
        raise ValueError(
            f"its {kind} {_listed(found)} is not that of embodiment '{slot}', {_listed(wanted)}"
            + (f": {_listed(lacking)} is lacking" if 0 < len(lacking) < len(wanted) else "")
            + f"; choose the same numbers with --{kind}, name them alike, or give another embodiment"
        )
    if extra:
        log.warning("embodiment '%s' has no %s %s: it is left out", slot, kind, _listed(extra))
    return tuple(place for place in where if place is not None)


def said_of(datasets: Sequence[tuple[Actions, Placement]]) -> Actions:
    """How the action space of a new slot is fitted: of each of its choices what the first dataset says that says anything."""
    said = [_in_slot(actions, placement) for actions, placement in datasets]
    names = [item.name for item in dataclasses.fields(Actions)]
    chosen = {name: next((value for each in said if (value := getattr(each, name))), None) for name in names}
    return dataclasses.replace(UNSAID, **{name: value for name, value in chosen.items() if value})


def check_said(actions: Actions, placement: Placement, slot: Embodiment) -> None:
    """Raises ValueError where a dataset says another representation, normalisation or parts than its slot has, naming both."""
    said, space = _in_slot(actions, placement), slot.action_space
    kinds = {space.state.kind, *(() if said.parts else (part.normalisation for part in space.parts))}
    found = {
        "representation": (said.representation, {part.representation for part in space.parts}),
        "normalisation": (said.normalisation, kinds),
    }
    differ = [(name, one, ", ".join(sorted(has))) for name, (one, has) in found.items() if one and {one} != has]
    if said.parts and set(said.parts) != set(space.parts):
        other = [part for part in said.parts if part not in space.parts] or list(said.parts)
        differ.append(("action_parts", str(other[0]), ", ".join(str(part) for part in space.parts)))
    if differ:
        choices = "; ".join(f"{name} {one}, but embodiment '{slot.name}' has {has}" for name, one, has in differ)
        raise ValueError(
            f"{choices}. One embodiment has one meaning: leave {' and '.join(name for name, _, _ in differ)} out, or give "
            "another embodiment"
        )


def _in_slot(actions: Actions, placement: Placement) -> Actions:
    """The same, its parts' dimensions as the slot counts them. Raises ValueError for a part of what the slot has not."""

    def moved(part: ActionPart) -> ActionPart:
        try:
            dims = tuple(placement.action.index(dim) for dim in part.dims)
            state = None if part.state_dims is None else tuple(placement.state.index(dim) for dim in part.state_dims)
        except ValueError as error:
            raise ValueError(
                f"action part '{part.name}' has dims {list(part.dims)} and state_dims {list(part.state_dims or ())}, some of "
                "which the data or the embodiment do not have"
            ) from error
        return dataclasses.replace(part, dims=dims, state_dims=state)

    same = all(
        where == tuple(range(len(where))) for where in (placement.action, placement.state)
    )  # and `check_parts` says what does not fit
    return actions if same else dataclasses.replace(actions, parts=tuple(map(moved, actions.parts)))


def _listed(names: Sequence[str]) -> str:
    """E.g. "[x, y, z]"."""
    told = ", ".join(names[:_TOLD]) + (f", ... {len(names)} in all" if len(names) > _TOLD else "")
    return f"[{told}]"
