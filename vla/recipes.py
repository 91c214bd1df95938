"""Recipes: a policy, how it is trained and what of it, by name. GR00T's published sizes, what trains in minutes on a CPU, the baseline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from corpora.store.told import closest
from flare.config import FlareConfig
from vla.models.config import (
    DitConfig,
    FlowConfig,
    PolicyConfig,
    SmallBackboneConfig,
    VisionConfig,
    VlmConfig,
    WorldConfig,
)
from vla.training_config import PolicyTrainingConfig, TuningConfig

SMOLVLM2 = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
QWEN3_VL = "Qwen/Qwen3-VL-2B-Instruct"

SMALL = PolicyConfig(
    image_size=84,
    horizon=16,
    max_state_dim=64,
    max_action_dim=32,
    slots=12,
    hidden=128,
    small=SmallBackboneConfig(),
    dit=DitConfig(layers=4, heads=4, head_dim=32, output_dim=128, dropout=0.0),
    flow=FlowConfig(draws=2, middle=0.5, temperature=0.0, steps=1),
)
"""From scratch on two cores. It predicts the conditional mean in one step, from zero noise, which half of its draws are trained for:
EXPERIMENTS.md has what four steps do."""

SMALL_FLARE = dataclasses.replace(SMALL, future_tokens=9, dit=dataclasses.replace(SMALL.dit, future_layer=3))
"""The same with 3 x 3 future tokens, read after 3 of 4 blocks."""

BC = dataclasses.replace(SMALL, head="regression")
"""Plain convolutional behaviour cloning, the baseline."""

SMALL_WORLD = dataclasses.replace(SMALL, head="world_action", flow=dataclasses.replace(SMALL.flow, alpha=1.0))
"""The picture that follows is denoised beside the chunk, of what `small` sees, and in one step."""

DINOV2_SMALL = "facebook/dinov2-small"

SMALL_DINO = dataclasses.replace(SMALL, image_size=112, vision=VisionConfig(name=DINOV2_SMALL))
"""The tokens of a frozen DINOv2-S, 8 x 8 of an image, in the place of convolutions from scratch; `--backbone` names another."""

BC_DINO = dataclasses.replace(SMALL_DINO, head="regression")
"""The baseline on the same tokens."""

DEBUG = PolicyConfig(
    image_size=32,
    horizon=8,
    max_state_dim=16,
    max_action_dim=16,
    future_tokens=4,
    hidden=32,
    small=SmallBackboneConfig(dim=32, channels=(16, 16, 32), keypoints=8, words=256),
    dit=DitConfig(layers=4, heads=2, head_dim=16, output_dim=32, dropout=0.0, future_layer=2),
)
"""Seconds, for tests."""

N1 = PolicyConfig(
    image_size=224,
    horizon=16,
    max_state_dim=64,
    max_action_dim=32,
    padded="noise",
    vlm=VlmConfig(name=SMOLVLM2, layer=12, project_to=1536),
    dit=DitConfig(layers=16),
)
"""GR00T N1's layout; Eagle-2's nearest native relative as System 2."""

N1_5 = PolicyConfig(
    image_size=224,
    horizon=16,
    max_state_dim=64,
    max_action_dim=32,
    future_tokens=32,
    padded="noise",
    vlm=VlmConfig(name=SMOLVLM2, layer=12, self_attention_layers=4),
    dit=DitConfig(layers=16, future_layer=12),
)
"""GR00T N1.5's layout: self-attention over the vision-language tokens, future tokens."""

N1_6 = PolicyConfig(
    image_size=224,
    horizon=50,
    max_state_dim=128,
    max_action_dim=128,
    hidden_state="token",
    padded="noise",
    vlm=VlmConfig(name=QWEN3_VL, layer=16),
    dit=DitConfig(layers=32, cross="alternate"),
    flow=FlowConfig(time="n1_6"),
)
"""GR00T N1.6's layout: 32 layers, text and image cross-attention in turn, chunks of 50 steps as in its checkpoint; use it with
state-relative actions."""

N1_7 = PolicyConfig(
    image_size=256,
    horizon=40,
    max_state_dim=132,
    max_action_dim=132,
    state_dropout=0.8,
    hidden_state="zero",
    padded="noise",
    vlm=VlmConfig(name=QWEN3_VL, layer=12, prompt="groot"),
    dit=DitConfig(layers=32, cross="alternate"),
    flow=FlowConfig(time="n1_6"),
)
"""GR00T N1.7's layout: N1.6's with chunks of 40 steps, layer 12 of Qwen3-VL-2B, and states that are hidden as a token of zeros,
four of five in pretraining (fine-tuning: --training.state-dropout 0.2). 32 layers as in its checkpoint; its code's default is 16.
Use it with an end effector whose chunks are relative, with statistics of each step: --action-parts with representation, frame
and per_step, normalisation min_max for these, percentiles for the rest."""

SIGLIP2 = "google/siglip2-large-patch16-256"
"""FLARE's target encoder (2505.15659)."""

DREAMZERO = PolicyConfig(
    head="world_action",
    image_size=256,
    history_s=(4.8, 3.2, 1.6, 0.0),
    horizon=24,
    max_state_dim=64,
    max_action_dim=32,
    vision=VisionConfig(name=SIGLIP2),
    dit=DitConfig(layers=40, heads=40, head_dim=128, dropout=0.0),
    flow=FlowConfig(alpha=1.0),
    world=WorldConfig(future_s=1.6, times="block", picture_end=1.0),
)
"""DreamZero's sizes (2602.15922: Wan 2.1's transformer of 40 layers, 5120 wide; blocks of 24 actions, four at most in sight), on the
tokens of a frozen SigLIP2 instead of Wan's autoencoder, with words of our own instead of UMT5. Never run."""


@dataclass(frozen=True)
class Recipe:
    """A policy and its training."""

    policy: PolicyConfig
    training: PolicyTrainingConfig
    tuning: TuningConfig


_GROOT = PolicyTrainingConfig(
    steps=10_000,
    batch_size=64,
    lr=1e-4,
    weight_decay=1e-5,
    betas=(0.95, 0.999),
    precision="auto",
    ema=0.0,
    val_every_steps=1000,
)
"""GR00T's fine-tuning defaults (REFERENCE.md, section 2)."""

EVERYTHING = TuningConfig(vision=True)
"""Of a policy from scratch, all is trained."""
FROZEN_VLM = TuningConfig()
"""Projector and DiT: GR00T N1.5's choice, and of all of them in fine-tuning. The model's features are then kept on disk."""

RECIPES: dict[str, Recipe] = {
    "small": Recipe(SMALL, PolicyTrainingConfig(steps=3000, workers=0), EVERYTHING),
    "small_flare": Recipe(
        SMALL_FLARE,
        PolicyTrainingConfig(steps=3000, workers=0, flare=True, alignment=FlareConfig(standardise=True, ema=1.0)),
        EVERYTHING,
    ),
    "small_world": Recipe(SMALL_WORLD, PolicyTrainingConfig(steps=3000, workers=0), EVERYTHING),
    "bc": Recipe(BC, PolicyTrainingConfig(steps=3000, workers=0), EVERYTHING),
    "small_dino": Recipe(SMALL_DINO, PolicyTrainingConfig(steps=3000, workers=0), FROZEN_VLM),
    "bc_dino": Recipe(BC_DINO, PolicyTrainingConfig(steps=3000, workers=0), EVERYTHING),
    "debug": Recipe(
        DEBUG,
        PolicyTrainingConfig(steps=20, batch_size=8, val_every_steps=10, val_samples=16, workers=0, ema=0.9),
        EVERYTHING,
    ),
    "n1": Recipe(N1, _GROOT, TuningConfig(vision=True)),
    "n1_5": Recipe(
        N1_5,
        dataclasses.replace(_GROOT, alignment=FlareConfig(target="frozen", target_name=SIGLIP2)),
        FROZEN_VLM,
    ),
    "dreamzero": Recipe(
        DREAMZERO,
        dataclasses.replace(_GROOT, steps=100_000, batch_size=128, lr=1e-5),
        EVERYTHING,
    ),
    "n1_6": Recipe(N1_6, dataclasses.replace(_GROOT, batch_size=64), TuningConfig(vlm_top_layers=4)),
    "n1_7": Recipe(N1_7, _GROOT, FROZEN_VLM),
}
"""N1 trains its vision-language model's eyes, N1.6 its top 4 language layers (REFERENCE.md, section 2)."""
FIELDS = {
    name: {"model": recipe.policy, "training": recipe.training, "tuning": recipe.tuning}
    for name, recipe in RECIPES.items()
}
"""The same, as the jobs' flags --model, --training and --tuning."""


def tuning_of_policy(config: PolicyConfig) -> TuningConfig:
    """What is trained of a policy that was trained before, where nothing else is asked for."""
    whole = config.head in ("regression", "world_action")
    return FROZEN_VLM if config.vlm.name or (config.vision.name and not whole) else EVERYTHING


def recipe_named(name: str) -> Recipe:
    """Raises ValueError for an unknown name, with the nearest known one."""
    if name not in RECIPES:
        raise ValueError(f"--recipe '{name}': {closest(name, RECIPES)}")
    return RECIPES[name]
