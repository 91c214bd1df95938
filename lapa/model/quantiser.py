"""What a quantiser is: it sees latents [B, tokens, dim], answers with `Quantised`, and answers for itself, so that nobody else
asks of which kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lapa.model.config import QuantiserConfig


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of latents [B, tokens, dim]."""

    quantized: Tensor
    """[B, tokens, dim], what the decoder sees; gradients pass to the latents."""
    codes: Tensor | None
    """int64 [B, positions], a code for each of `Quantiser.sizes`; None for continuous latents."""
    loss: Tensor
    """Scalar to be added to the training loss."""
    rest: Tensor | None = None
    """[B, rest tokens, dim], tokens beside the latent's, of a quantiser that has some: what the decoder sees of
    them."""


class Quantiser(nn.Module, ABC):
    """From latents to what the decoder sees, and what others must know of it. A subclass defines `forward`, and of the rest
    what differs; `lapa.model.quantisers.register` makes it known by name."""

    Config: ClassVar[type[QuantiserConfig]] = QuantiserConfig
    """The class of its configuration: a subclass of `QuantiserConfig` where it has fields of its own."""
    continuous: bool = False
    """Whether there are no codes: the encoder is then trained through what it returns."""

    moments: ClassVar[int] = 1
    """Numbers that it wants of the encoder for each number of the latent; the first `dim` of a token are the latent."""

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        """For latents of `tokens` tokens of `dim` dimensions."""
        super().__init__()
        self.config = config
        self.tokens = tokens

    @abstractmethod
    def forward(self, z: Tensor) -> Quantised:
        """`z` [B, tokens, dim]."""

    @property
    def codebook(self) -> Tensor | None:
        """[codes, dim], the vector of each code, where all tokens share them; None where they cannot be listed so."""
        return None

    @property
    def usual_rest(self) -> Tensor | None:
        """[rest tokens, dim], what stands for the tokens beside the latent's where nobody gives them; None without
        such."""
        return None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes there are for each position of a pair's row of codes; empty for continuous latents."""
        return () if self.continuous else (self.config.codebook_size,) * self.tokens

    @property
    def settled(self) -> bool:
        """False where a codebook waits for its first batch to be made from: codes would depend on which comes first."""
        return True

    def adopt(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of another run's quantiser by the names that they have here."""
        return weights
