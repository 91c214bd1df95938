"""How a latent action model is trained: the budget and the optimiser; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corpora.training_config import Training


@dataclass(frozen=True)
class TrainingConfig(Training):
    """How long and how a model is trained."""

    counts: ClassVar[tuple[str, ...]] = (*Training.counts, "val_pairs")

    warmup_steps: int = 50
    """Steps of linear warm-up; then cosine to 3% at the end of the budget."""
    weight_decay: float = 0.02
    """Of AdamW."""
    precision: str = "auto"
    """bf16-mixed, 32-true, or auto: bf16-mixed where the hardware is fast at it (GPUs since Ampere, CPUs with AVX512-BF16 or AMX), else
    32-true; a run goes on in what it began with."""
    val_every_steps: int = 200
    """Steps between validations."""
    val_pairs: int = 512
    """Held-out pairs per validation, the same at each."""
    cache_gb: float = 20.0
    """Disk for decoded frames; a larger corpus is streamed from its shards."""
