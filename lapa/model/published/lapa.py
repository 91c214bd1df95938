"""LAPA (arXiv 2410.11758): `laq_*.pt`, a state_dict of LatentActionQuantization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.published.adapter import Adapter, Weights, depth, rename
from lapa.pairs.config import PairConfig

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 8
"""Patches along a side: what 4 tokens take, by its strided convolution and the one of 3 x 3 after it."""

lapa_config = partial(
    LamConfig,
    stem="patch",
    shared_stem=True,
    input="lapa",
    blocks="lapa",
    position="peg",
    pool="lapa",
    condition="lapa",
    quantised_share=1.0,
    code_gradient=True,
    residual=False,
    flow_weight=0.0,
)
"""LAPA's network, but for its sizes."""
lapa_pair = partial(
    PairConfig, resize="bilinear", camera_compensation=False, flow="none", gap_s=(0.6, 1.0, 2.4), extract_gap_s=1.0
)
"""What it is shown, but for the size: the whole image stretched to a square as torchvision resizes images. Its gaps are in
frames, about 0.6 s for robots, 1 s for Something-Something and 2.4 s for people."""

_STACKS = {
    "enc_spatial_transformer": "encoder.branches.0.spatial",
    "enc_temporal_transformer": "encoder.branches.0.temporal",
    "dec_spatial_transformer": "decoder.transformer",
}
_IN_A_LAYER = [
    (r"0\.dsconv\.(weight|bias)", r"peg.conv.\2"),
    (r"1\.context_norm\..*|\d\..*norm\.beta", ""),  # of self-attention, and of zeros: neither is ever used
    (r"1\.norm\.gamma", "self.norm.weight"),
    (r"2\.norm\.gamma", "cross.norm.weight"),
    (r"2\.context_norm\.gamma", "cross.context_norm.weight"),
    (r"1\.null_kv", "self.nulls"),
    (r"2\.null_kv", "cross.nulls"),
    (r"1\.(q_scale|k_scale|to_\w+\.weight)", r"self.\2"),
    (r"2\.(q_scale|k_scale|to_\w+\.weight)", r"cross.\2"),
    (r"3\.0\.(weight|bias)", r"ff.norm.\2"),
    (r"3\.1\.weight", "ff.inner.weight"),
    (r"3\.4\.weight", "ff.outer.weight"),
]
_RULES = [
    (r"vq\.codebooks", "quantiser.codebook"),
    (r"vq\.project_in\.(weight|bias)", r"encoder.branches.0.pool.project.\1"),
    (r"vq\.project_out\.(weight|bias)", r"decoder.enter.\1"),
    (r"vq\.cnn_encoder\.0\.(weight|bias)", r"encoder.branches.0.pool.halve.\1"),
    (r"vq\.cnn_encoder\.2\.(weight|bias)", r"encoder.branches.0.pool.merge.\1"),
    (r"to_pixels_first_frame\.0\.(weight|bias)", r"decoder.out.\1"),
]
for theirs, ours in _STACKS.items():
    _RULES.append((rf"{theirs}\.norm_out\.gamma", f"{ours}.norm.weight"))
    for pattern, template in _IN_A_LAYER:
        _RULES.append(
            (rf"{theirs}\.layers\.(?P<layer>\d+)\.{pattern}", template and rf"{ours}.layers.\g<layer>.{template}")
        )
_SHARED = [
    (r"to_patch_emb_first_frame\.1\.(weight|bias)", r"stem.net.0.\1"),
    (r"to_patch_emb_first_frame\.2\.(weight|bias)", r"stem.net.1.\1"),
    (r"to_patch_emb_first_frame\.3\.(weight|bias)", r"stem.net.2.\1"),
    (r"spatial_rel_pos_bias\.net\.0\.0\.(weight|bias)", r"bias.net.0.\1"),
    (r"spatial_rel_pos_bias\.net\.1\.0\.(weight|bias)", r"bias.net.2.\1"),
    (r"spatial_rel_pos_bias\.net\.2\.(weight|bias)", r"bias.net.4.\1"),
]
"""Of encoder and decoder."""


class Lapa(Adapter):
    """`latent` is what its nearest code is looked for, `quantized` that code's vector."""

    name = "LAPA"
    marks = ("vq.codebooks", "vq.cnn_encoder.2.weight", "enc_temporal_transformer.norm_out.gamma")
    tokens: ClassVar[dict[tuple[int, int], int]] = {(3, 3): 4, (3, 4): 2, (4, 4): 1}
    """By the kernel of its last convolution, of SIDE x SIDE patches."""

    @classmethod
    def config(cls, weights: Weights, settings: Mapping[str, Any]) -> LamConfig:
        codebook_size, latent_dim = weights["vq.codebooks"].shape
        dim = weights["vq.project_in.weight"].shape[1]
        heads, _, width = weights["enc_spatial_transformer.layers.0.1.null_kv"].shape
        kernel = tuple(weights["vq.cnn_encoder.2.weight"].shape[2:])
        if kernel not in cls.tokens or heads * width != dim:
            raise ValueError(
                f"a LAPA checkpoint whose last convolution is {kernel} and whose {heads} heads of {width} make {heads * width} of "
                f"width {dim}: giza reads its models of 1, 2 and 4 tokens, whose heads make up the width"
            )
        patch = math.isqrt(weights["to_pixels_first_frame.0.bias"].shape[0] // 3)
        return lapa_config(
            pair=lapa_pair(image_size=SIDE * patch),
            patch=patch,
            dim=dim,
            heads=heads,
            spatial_depth=depth(weights, "enc_spatial_transformer.layers."),
            temporal_depth=depth(weights, "enc_temporal_transformer.layers."),
            decoder_depth=depth(weights, "dec_spatial_transformer.layers."),
            tokens=cls.tokens[kernel],
            latent_dim=latent_dim,
            quantiser=QuantiserConfig(kind="nsvq", codebook_size=codebook_size),
        )

    @classmethod
    def renamed(cls, weights: Weights) -> dict[str, Tensor]:
        found = rename(weights, _RULES)
        for name, value in found.items():
            if name.endswith(".nulls"):  # [heads, keys and values in turn, width]
                found[name] = value.unflatten(1, (-1, 2)).permute(2, 0, 1, 3)
        for name, value in rename(weights, _SHARED).items():
            found[f"encoder.branches.0.{name}"] = found[f"decoder.{name}"] = value
        found["quantiser.started"] = weights["vq.codebooks"].new_ones(()).bool()
        return found
