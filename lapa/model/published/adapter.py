"""What giza must know of a published model: by which tensors its checkpoint is known, what it is made of, and where each tensor
belongs here."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lapa.model.config import LamConfig

if TYPE_CHECKING:
    from torch import Tensor

    from flare.vision import FrozenVision

Weights = Mapping[str, "Tensor"]
"""Tensors by name."""


class Adapter(ABC):
    """Of one published model. A subclass reads the configuration off the tensors' shapes, so that models of another size, which
    its authors' code trained, are read as well."""

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    """Tensors that its checkpoint holds and no other model's."""

    @classmethod
    def knows(cls, weights: Weights) -> bool:
        return all(mark in weights for mark in cls.marks)

    @classmethod
    @abstractmethod
    def config(cls, weights: Weights, settings: Mapping[str, Any]) -> LamConfig:
        """`settings`: what the checkpoint says of its sizes, where it says something (Lightning's hyper_parameters).
        Raises ValueError for sizes that giza does not build."""

    @classmethod
    @abstractmethod
    def renamed(cls, weights: Weights) -> dict[str, Tensor]:
        """The tensors by their names here."""

    @classmethod
    def vision(cls, weights: Weights) -> FrozenVision | None:
        """The frozen vision model that the checkpoint holds; None for a model of images. Raises ValueError where it is
        not whole."""
        return None

    @classmethod
    def preprocessing(cls, config: LamConfig) -> str:
        """What its network is shown, in words."""
        return config.pair.preprocessing


def depth(weights: Weights, prefix: str) -> int:
    """Layers named `prefix`0, `prefix`1, ..."""
    numbers = [re.match(re.escape(prefix) + r"(\d+)\.", name) for name in weights]
    return 1 + max((int(found.group(1)) for found in numbers if found), default=-1)


def rename(weights: Weights, rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors whose whole name one of `rules` (pattern, template) matches, by what the first such template makes of it; those
    that an empty template names, and those without a rule, are left out."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        for pattern, template in rules:
            match = re.fullmatch(pattern, name)
            if match:
                if template:
                    found[match.expand(template)] = value
                break
    return found
