"""How a policy is trained: the budget and the optimiser, and which of its parts; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from corpora.training_config import Training
from flare.config import FlareConfig


@dataclass(frozen=True)
class PolicyTrainingConfig(Training):
    """How long and how a policy is trained."""

    precisions: ClassVar[tuple[str, ...]] = ("32-true", "bf16-mixed", "bf16-true", "auto")
    counts: ClassVar[tuple[str, ...]] = (*Training.counts, "val_samples")

    warmup_share: float = 0.05
    """Share of the budget for linear warm-up; then cosine to 2% of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW (GR00T N1: 0.95, 0.999)."""
    ema: float = 0.995
    """Decay of the average weights, which are what is saved; 0: the last weights are."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "32-true"
    """32-true; bf16-mixed computes in bfloat16; auto: that where the hardware is fast at it (GPUs since Ampere, CPUs with AVX512-BF16
    or AMX), else 32-true, and a run goes on in what it began with; bf16-true also keeps in bfloat16 the weights that are not
    trained. Those that are trained, and their average, stay float32: most steps of an optimiser are smaller than the spacing of
    bfloat16."""
    strategy: str = "auto"
    """auto (ddp on several devices), ddp, or fsdp (large models; their frozen part is sharded too). It may change where a run is
    resumed."""
    val_samples: int = 256
    """Held-out samples of each dataset per validation, the same at each."""
    cache_features: bool = True
    """Compute the features of a frozen vision-language model once for each sample, and keep them on disk."""
    state_dropout: float | None = None
    """From here on the policy's share of samples whose state is hidden (GR00T N1.7: 0.8 in pretraining, 0.2 in fine-tuning); None:
    as it was built."""
    flare: bool = False
    """Align the future tokens' states with the future's embedding."""
    alignment: FlareConfig = field(default_factory=FlareConfig)
    """FLARE's parts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy not in {"auto", "ddp", "fsdp"}:
            raise ValueError(f"strategy '{self.strategy}': auto, ddp or fsdp")
        if self.compile and self.strategy == "fsdp":
            raise ValueError("compile with strategy fsdp: shards are not compiled; leave one of them out")
        if self.state_dropout is not None and not 0 <= self.state_dropout < 1:
            raise ValueError(f"training.state_dropout {self.state_dropout}: must be within 0 and 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema {self.ema}: within 0 and 1, e.g. 0.995")


@dataclass(frozen=True)
class TuningConfig:
    """GR00T's choices; its fine-tuning default is projector and DiT."""

    projector: bool = True
    """Between VLM and DiT, and the embodiments' state and action MLPs, with the positions of action tokens."""
    dit: bool = True
    """The diffusion transformer, with its future tokens."""
    vlm_top_layers: int = 0
    """The top N of the language layers that are read (N1.6: 4)."""
    vision: bool = False
    """The vision tower with its connector; of a backbone without such parts (the small one), all of it."""
    lora_rank: int = 0
    """Rank of the adapters; 0: none."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters; (): those of the attention."""
    lora_on: Literal["vlm", "dit"] = "vlm"
    """Where adapters go: into the language layers of the VLM, or into the DiT."""
    lora_alpha: float = 16
    """An adapter adds alpha / rank B A x."""

    def __post_init__(self) -> None:
        if self.vlm_top_layers < 0 or self.lora_rank < 0:
            raise ValueError(f"vlm_top_layers {self.vlm_top_layers}, lora_rank {self.lora_rank}: must be 0 or more")
        if self.lora_rank and self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha {self.lora_alpha}: must be positive")
        if self.lora_targets and not self.lora_rank:
            raise ValueError(f"lora_targets {list(self.lora_targets)}: without lora_rank there are no adapters")
        if self.lora_rank and self.lora_on == "dit" and self.dit:
            raise ValueError(
                f"lora_rank {self.lora_rank} on a DiT that is trained whole: set dit to False, or adapt the vlm"
            )
        if self.lora_rank and self.lora_on == "vlm" and self.vlm_top_layers:
            raise ValueError(
                f"lora_rank {self.lora_rank} on language layers of which {self.vlm_top_layers} are trained whole: choose one"
            )
