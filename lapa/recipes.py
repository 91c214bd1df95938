"""Named models: the published ones, and what giza trains in minutes on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.published.dreamdojo import dreamdojo_config, dreamdojo_pair, dreamdojo_quantiser
from lapa.model.published.lapa import lapa_config, lapa_pair
from lapa.model.published.univla import univla_config, univla_pair, univla_quantiser
from lapa.pairs.config import PairConfig
from lapa.training_config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained."""

    model: LamConfig
    training: TrainingConfig


T5 = "google-t5/t5-base"

SMALL = LamConfig()

_published = partial(LamConfig, quantised_share=1.0, code_gradient=True, residual=False, flow_weight=0.0)
_published_pair = partial(PairConfig, camera_compensation=False, flow="none", extract_gap_s=1.0)
"""What the published models have in common: the decoder sees codes alone, which shape the encoder, and predicts the second
frame itself; no optical flow, no compensation; latents a second apart."""

LAPA = lapa_config(
    pair=lapa_pair(image_size=256),
    patch=32,
    dim=1024,
    heads=16,
    spatial_depth=8,
    temporal_depth=8,
    tokens=4,
    latent_dim=32,
    quantiser=QuantiserConfig(kind="nsvq", codebook_size=8),
    decoder_depth=8,
)

DREAMDOJO = dreamdojo_config(
    pair=dreamdojo_pair(image_size=240, image_width=320),
    patch=16,
    dim=1024,
    heads=16,
    spatial_depth=24,
    latent_dim=32,
    quantiser=dreamdojo_quantiser(),
    decoder_depth=24,
)

UNIVLA_STAGE1 = univla_config(
    pair=univla_pair(image_size=224),
    patch=14,
    dim=768,
    heads=12,
    spatial_depth=12,
    tokens=4,
    latent_dim=128,
    quantiser=univla_quantiser(codebook_size=16),
    decoder_depth=12,
    text_model=T5,
)
UNIVLA = replace(UNIVLA_STAGE1, stage=2, text_model="")

GROOT = _published(
    pair=_published_pair(image_size=224, gap_s=(1.0,)),
    patch=16,
    dim=1024,
    heads=16,
    stem="patch",
    input="both",
    spatial_depth=8,
    temporal_depth=8,
    pool="queries",
    tokens=16,
    latent_dim=32,
    quantiser=QuantiserConfig(kind="vq", codebook_size=8),
    decoder_depth=8,
    condition="cross",
)

DEBUG = LamConfig(
    pair=PairConfig(image_size=32, flow="input"),
    input="motion",
    pool="flatten",
    dim=32,
    heads=2,
    spatial_depth=1,
    decoder_depth=1,
    tokens=2,
    latent_dim=8,
    quantiser=QuantiserConfig(codebook_size=8, compand=True),
)

_UNIVLA_TRAINING = TrainingConfig(
    steps=100_000,
    batch_size=64,
    accumulate=8,
    lr=1e-4,
    weight_decay=1e-2,
    val_every_steps=2000,
    precision="32-true",  # as with DreamDojo: its tokens hardly differ between pairs
)

RECIPES: dict[str, Recipe] = {
    "small": Recipe(SMALL, TrainingConfig(steps=2600, batch_size=32, precision="32-true")),
    "lapa": Recipe(LAPA, TrainingConfig(steps=100_000, batch_size=64, lr=1e-4, val_every_steps=2000)),
    "dreamdojo": Recipe(
        DREAMDOJO,
        TrainingConfig(
            steps=400_000,
            batch_size=20,
            accumulate=8,
            lr=2.5e-5,
            weight_decay=1e-2,
            val_every_steps=2000,
            precision="32-true",  # its token hardly differs between pairs: rounding would be a part of it
        ),
    ),
    "univla_stage1": Recipe(UNIVLA_STAGE1, _UNIVLA_TRAINING),
    "univla": Recipe(UNIVLA, replace(_UNIVLA_TRAINING, steps=200_000)),
    "groot": Recipe(GROOT, TrainingConfig(steps=100_000, batch_size=64, accumulate=16, lr=1e-4, val_every_steps=2000)),
    "debug": Recipe(
        DEBUG, TrainingConfig(steps=30, batch_size=16, workers=0, val_every_steps=20, val_pairs=64, precision="32-true")
    ),
}
"""What is trained on a CPU is trained in the precision in which its latents are extracted; there that is the faster one, too
(133 pairs a second against 99, on a core without AMX). Published models keep their published batch on one device by
accumulation; on several divide `accumulate`, and multiply `batch_size`, by the devices."""
