"""One slot, one meaning: whether data that join an embodiment of a policy, new or known, mean what its slot means."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from corpora.mixture.label_kinds import Actions
from corpora.mixture.spec import DatasetSpec
from vla.embodiment import Embodiment

UNSAID = Actions("absolute", "q01_q99")
"""What is taken where no dataset of a new slot says anything."""


def said_of(specs: Sequence[DatasetSpec]) -> Actions:
    """How the action space of a new slot is fitted: of each of its choices what the first dataset says that says anything."""
    said = [spec.label.fitted_as for spec in specs]
    names = [item.name for item in dataclasses.fields(Actions)]
    chosen = {name: next((value for each in said if (value := getattr(each, name))), None) for name in names}
    return dataclasses.replace(UNSAID, **{name: value for name, value in chosen.items() if value})


def check_said(spec: DatasetSpec, slot: Embodiment) -> None:
    """Raises ValueError where a dataset says another representation, normalisation or parts than its slot has, naming both."""
    said, space = spec.label.fitted_as, slot.action_space
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
            f"dataset '{spec.name}': {choices}. One embodiment has one meaning: leave "
            f"{' and '.join(name for name, _, _ in differ)} out, or give another embodiment"
        )
