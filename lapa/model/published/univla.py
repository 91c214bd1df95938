"""UniVLA (arXiv 2505.06111): `lam-stage-2.ckpt`, a Lightning checkpoint of its task-centric latent action model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.published.adapter import Adapter, Weights, depth, rename
from lapa.model.published.space_time import block_rules, keys_and_values_joined
from lapa.pairs.config import PairConfig

if TYPE_CHECKING:
    from torch import Tensor

    from flare.vision import FrozenVision

DINOV2 = "facebook/dinov2-with-registers-base"
SIDE = 16
"""Patches along a side of its images: 224 pixels in patches of 14."""
HEAD = 64
"""Width of an attention head, in its own network where the checkpoint does not tell, and in every DINOv2."""

univla_config = partial(
    LamConfig,
    input="task_tokens",
    condition="task_tokens",
    target=DINOV2,
    quantised_share=1.0,
    code_gradient=True,
    residual=False,
    flow_weight=0.0,
)
"""UniVLA's network, but for its sizes."""
univla_pair = partial(
    PairConfig, resize="lanczos", camera_compensation=False, flow="none", gap_s=(1.0,), extract_gap_s=1.0
)
"""What it is shown, but for the size: the whole image stretched to a square, by a Lanczos window of three."""
univla_quantiser = partial(QuantiserConfig, kind="vqvae", commitment=0.25)

_OURS = "encoder.branches.0"
_RULES = [
    (r"action_latent", f"{_OURS}.prompt"),
    (r"action_latent_controllable", f"{_OURS}.task_prompt"),
    (r"encoder\.ffn\.(\d)\.(weight|bias)", rf"{_OURS}.stem.\1.\2"),
    (r"to_codebook\.(weight|bias)", rf"{_OURS}.out.\1"),
    (r"to_codebook_uncontrol\.(weight|bias)", rf"{_OURS}.rest_out.\1"),
    (r"vq_action\.codebook\.weight", "quantiser.task.codebook"),
    (r"vq\.codebook\.weight", "quantiser.frozen.codebook"),
    (r"patch_up\.(weight|bias)", r"decoder.patches.\1"),
    (r"action_up\.(weight|bias)", r"decoder.enter.\1"),
    (r"action_up_uncontrol\.(weight|bias)", r"decoder.enter_rest.\1"),
    (r"decoder\.ffn\.(\d)\.(weight|bias)", r"decoder.stem.\1.\2"),
    (r"decoder\.out\.(weight|bias)", r"decoder.out.\1"),
    *block_rules("encoder", _OURS, ("space", "time", "ff")),
    *block_rules("decoder", "decoder", ("space", "ff")),
]
_OF_DINO = [
    (r"cls_token", "embeddings.cls_token"),
    (r"mask_token", "embeddings.mask_token"),
    (r"register_tokens", "embeddings.register_tokens"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"encoder.layer.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.(query|key|value)\.(weight|bias)", r"encoder.layer.\1.attention.attention.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"encoder.layer.\1.mlp.\2.\3"),
    (r"norm\.(weight|bias)", r"layernorm.\1"),
]
"""From DINOv2's own names to those of transformers."""


class UniVla(Adapter):
    """`latent` holds the four task-centric tokens before their codes are looked for; stage 1's four stay beside them in
    the model, and are not written."""

    name = "UniVLA"
    marks = ("action_latent", "to_codebook.weight", "vq.codebook.weight", "dino_encoder.pos_embed")

    @classmethod
    def config(cls, weights: Weights, settings: Mapping[str, Any]) -> LamConfig:
        if "vq_action.codebook.weight" not in weights:
            raise ValueError(
                "this is UniVLA's stage 1, whose codes hold what the instruction does not say and which reads that "
                "beside the frames: take its stage 2 (lam-stage-2.ckpt)"
            )
        codebook_size, latent_dim = weights["vq_action.codebook.weight"].shape
        dim = weights["to_codebook.weight"].shape[1]
        feature_dim, _, patch, _ = weights["dino_encoder.patch_embed.proj.weight"].shape
        heads = int(settings.get("lam_num_heads") or max(1, dim // HEAD))
        if len(weights["vq.codebook.weight"]) != codebook_size or dim % heads:
            raise ValueError(
                f"a UniVLA checkpoint of {len(weights['vq.codebook.weight'])} and {codebook_size} codes, {heads} heads "
                f"and width {dim}: giza reads its models whose two codebooks are of one size, and whose heads make up "
                "the width"
            )
        return univla_config(
            pair=univla_pair(image_size=SIDE * patch),
            patch=patch,
            dim=dim,
            heads=heads,
            spatial_depth=depth(weights, "encoder.transformer_blocks."),
            decoder_depth=depth(weights, "decoder.transformer_blocks."),
            tokens=weights["action_latent_controllable"].shape[2],
            latent_dim=latent_dim,
            quantiser=univla_quantiser(codebook_size=codebook_size),
            stage=2,
            feature_dim=feature_dim,
            feature_patches=SIDE**2,
        )

    @classmethod
    def renamed(cls, weights: Weights) -> dict[str, Tensor]:
        found = keys_and_values_joined(rename(weights, _RULES))
        for half in ("task", "frozen"):
            found[f"quantiser.{half}.started"] = weights["vq.codebook.weight"].new_ones(()).bool()
        return found

    @classmethod
    def vision(cls, weights: Weights) -> FrozenVision:
        """The DINOv2 with registers that its encoder reads."""
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        from flare.vision import FrozenVision

        own = {name.removeprefix("dino_encoder."): x for name, x in weights.items() if name.startswith("dino_encoder.")}
        for name in [name for name in own if ".attn.qkv." in name]:
            for part, value in zip(("query", "key", "value"), own.pop(name).chunk(3), strict=True):
                own[name.replace(".qkv.", f".{part}.")] = value
        dim, _, patch, _ = own["patch_embed.proj.weight"].shape
        config = Dinov2WithRegistersConfig(
            hidden_size=dim,
            num_hidden_layers=depth(own, "blocks."),
            num_attention_heads=max(1, dim // HEAD),
            image_size=patch * round((own["pos_embed"].shape[1] - 1) ** 0.5),
            patch_size=patch,
            num_register_tokens=own["register_tokens"].shape[1],
        )
        return FrozenVision.of_state("UniVLA's DINOv2", Dinov2WithRegistersModel, config, rename(own, _OF_DINO))

    @classmethod
    def preprocessing(cls, config: LamConfig) -> str:
        return f"{config.pair.preprocessing}, normalised by ImageNet's mean and deviation, read by its frozen DINOv2"
