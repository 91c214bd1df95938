"""Names of numbers and of cameras: the same thing in another order, or under a longer name."""

from __future__ import annotations

from collections.abc import Sequence

from corpora.episodes.episode import LEAD, PREVIOUS

_HEADS = frozenset({"observation", "observations", "image", "images", "video", "videos", "camera", "cameras"})
"""Words of formats that begin names of cameras: "observation.images.top" and "video.top" are "top"."""


def places(wanted: Sequence[str], found: Sequence[str]) -> tuple[int | None, ...]:
    """Where each of the names `wanted` stands among those that are `found`: under the same name, else as the only one of
    which one name is the end of the other ("left_arm.elbow" and "elbow"; never "left.x" and "right.x"). None: nowhere, or
    nobody can tell."""
    whole = {name: list(found).index(name) for name in wanted if list(found).count(name) == 1}
    rest = [name for name in wanted if name not in whole]
    free = [place for place in range(len(found)) if place not in whole.values()]
    like = {name: [place for place in free if _alike(name, found[place])] for name in rest}
    claims = [place for mine in like.values() for place in mine]
    ends = {name: mine[0] for name, mine in like.items() if len(mine) == 1 and claims.count(mine[0]) == 1}
    once = {name for name in wanted if list(wanted).count(name) == 1}
    return tuple((whole | ends).get(name) if name in once else None for name in wanted)


def in_state(action_names: Sequence[str], state_names: Sequence[str]) -> tuple[int | None, ...]:
    """Where the state holds each number of the action: what it remembers of the last action, where it does; else under the
    action's name."""
    remembered = places([f"{PREVIOUS}{name}" for name in action_names], state_names)
    if None not in remembered:
        return remembered
    own = [place for place, name in enumerate(state_names) if not name.startswith((PREVIOUS, LEAD))]
    found = places(action_names, [state_names[place] for place in own])
    return tuple(None if place is None else own[place] for place in found)


def _alike(one: str, other: str) -> bool:
    longer, shorter = sorted((_words(one), _words(other)), key=len, reverse=True)
    return longer[-len(shorter) :] == shorter


def _words(name: str) -> list[str]:
    words = name.split(".")
    while len(words) > 1 and words[0] in _HEADS:
        del words[0]
    return words
