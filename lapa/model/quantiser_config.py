"""How latents become codes: the choice, without the classes behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lapa.model.kinds import QUANTISERS


@dataclass(frozen=True)
class QuantiserConfig:
    """How latents become codes. A registered quantiser with fields of its own subclasses this (see `Quantiser.Config`)."""

    kind: str = "vq"
    """nsvq: noise substitution (Vali and Backstrom 2022, as LAPA uses it); vq, rvq, fsq: vector-quantize-pytorch; kl: a
    variational bottleneck; none: no bottleneck but the dimension; or a name given to lapa.model.quantisers.register."""
    codebook_size: int = 16
    """Codes per token; with fsq the nearest product of its levels."""
    levels: int = 2
    """Stages of the residual quantiser (rvq)."""
    commitment: float = 0.25
    """Weight of the pull of encodings to their codes (vq, rvq)."""
    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term (kl); AdaWorld uses 2e-4."""
    compand: bool = False
    """Quantise centred latents whose length is compressed to log(1 + length): motion is heavy-tailed, and without it most
    codes go to the few largest motions."""
    expire_below: float = 0.1
    """A code used less than this share of its fair share (1 / codebook_size), on a running mean, is replaced."""
    decay: float = 0.99
    """Running mean of code usage and of the codes of vq and rvq, per step."""

    def __post_init__(self) -> None:
        QUANTISERS.check(self.kind)
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size {self.codebook_size}: a codebook holds at least 2 codes")
        if not 0 <= self.expire_below < 1:
            raise ValueError(f"expire_below {self.expire_below}: a share of the fair share, in [0, 1)")

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> QuantiserConfig:
        """From `dataclasses.asdict`, as JSON keeps it. Raises ValueError for an unknown kind or field."""
        config: type[QuantiserConfig] = QUANTISERS[values["kind"]].Config
        if unknown := set(values) - {field.name for field in dataclasses.fields(config)}:
            raise ValueError(f"unknown quantiser fields {sorted(unknown)}: the run was made by another version of giza")
        return config(**values)
