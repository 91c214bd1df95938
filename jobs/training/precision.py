"""Precision `auto`: a training computes in bfloat16 where the hardware is fast at it, and goes on in what it began with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

import torch

from corpora.store.files import read_json
from corpora.store.run import TRAINING
from corpora.training_config import Training

T = TypeVar("T", bound=Training)


def settled(training: T, folder: Path) -> T:
    """The training with `auto` decided: by the run in `folder`, where one was begun, else by this machine."""
    if training.precision != "auto":
        return training
    begun = (read_json(folder.expanduser() / TRAINING) or {}).get("training.precision")
    return dataclasses.replace(training, precision=begun or ("bf16-mixed" if fast_bfloat16() else "32-true"))


def fast_bfloat16() -> bool:
    """Whether the device that trains multiplies in bfloat16: GPUs since Ampere, CPUs with AVX512-BF16 or AMX. Others emulate it,
    and are slower than in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
