"""How a latent action model is trained: the budget and the optimiser; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how a model is trained."""

    steps: int = 0
    """Optimiser steps, which the schedule spans, so that the same seed gives the same model."""
    minutes: float = 0.0
    """Wall-clock minutes after which it stops early, resumed sessions counted together; 0: no limit."""
    batch_size: int = 64
    """Pairs per step and device."""
    accumulate: int = 1
    """Batches per optimiser step."""
    lr: float = 1e-3
    """Peak learning rate (AdamW)."""
    warmup_steps: int = 50
    """Steps of linear warm-up; then cosine to 3% at the end of the budget."""
    weight_decay: float = 0.02
    """Of AdamW."""
    precision: str = "bf16-mixed"
    """Lightning's name: bf16-mixed or 32-true."""
    devices: int = 1
    """Devices; more than one trains with DDP."""
    val_every_steps: int = 200
    """Steps between validations."""
    val_pairs: int = 512
    """Held-out pairs per validation, the same at each."""
    workers: int | None = None
    """Loader processes; default: one per core beside the first, at most 8."""
    cache_gb: float = 20.0
    """Disk for decoded frames; a larger corpus is streamed from its shards."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"no budget: steps {self.steps}; give --steps (or --training.steps)")
        if self.minutes < 0:
            raise ValueError(f"minutes {self.minutes}: at least 0 (no limit)")
        for name in ("batch_size", "accumulate", "devices", "val_every_steps", "val_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1")
        if self.precision not in {"bf16-mixed", "32-true"}:
            raise ValueError(f"precision '{self.precision}': bf16-mixed or 32-true")
