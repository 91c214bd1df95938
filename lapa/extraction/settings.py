"""What an extraction is of, and how it goes; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corpora.store.inputs import READ

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ExtractionSettings:
    """Latent actions of every pair of frames a gap apart, one row a pair: the same in every process of every engine."""

    lam: Path = field(metadata=READ)
    """Run folder of giza train-lam; or a published checkpoint (LAPA's laq_*.pt, DreamDojo's LAM_*.ckpt, UniVLA's
    lam-stage-2.ckpt), as a file or hf://owner/repository/file."""
    corpus: Path = field(metadata=READ)
    """Folder of giza ingest."""
    gap_s: float | None = None
    """Time between the frames of a pair in seconds; by default the one the model was made for."""
    stride_s: float = 0.1
    """Pairs of a clip begin at least this many seconds apart; 0: every frame begins one."""
    batch_size: int = 64
    """Pairs that go through the model at once."""
    workers: int | None = None
    """Threads that decode; by default half of the cores, or all but one where the model has a GPU."""
    device: Device = "auto"
    """Where the model runs."""
    precision: Precision = "float32"
    """Of the network. bfloat16 is faster where the hardware multiplies in it (AVX512-BF16, CUDA), but never chosen by itself: the same
    model would give other rows on another machine (of LAPA's codes 6%). How far latents move is measured on some pairs, and told."""
    compile: bool = False
    """Compile the encoder (torch.compile): faster once that is done, which takes minutes and a C++ compiler; latents are the same but
    for rounding."""
    engine: Literal["local", "ray"] = "local"
    """ray: over the cluster of RAY_ADDRESS or of `ray start`, whose machines share the folders; the same rows."""
    part_frames: int = 4096
    """Stored frames for one Parquet file, which is what a kill can cost."""
    measure_s: float = 0.0
    """Seconds for which decoding alone and the model alone are timed once the rows are written; 0: not at all."""
    seed: int = 0
    """Extraction draws nothing at random; kept with the summary."""

    def __post_init__(self) -> None:
        if self.gap_s is not None and not self.gap_s > 0:
            raise ValueError(
                f"gap_s {self.gap_s}: the gap between the frames of a pair must be above 0 seconds; try 0.5"
            )
        if not self.stride_s >= 0:
            raise ValueError(
                f"stride_s {self.stride_s}: must be 0 (every frame begins a pair) or more seconds; try 0.1"
            )
        for name, least in (("part_frames", 4096), ("batch_size", 64), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1; try {least}")
        if self.measure_s < 0:
            raise ValueError(f"measure_s {self.measure_s}: must be 0 or more seconds; try 2")
