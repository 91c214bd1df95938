"""DreamDojo (arXiv 2602.06949): `LAM_400k.ckpt`, a Lightning checkpoint of its latent action model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lapa.model.config import LamConfig, QuantiserConfig
from lapa.model.published.adapter import Adapter, Weights, depth, rename
from lapa.model.published.space_time import block_rules, keys_and_values_joined
from lapa.pairs.config import PairConfig

if TYPE_CHECKING:
    from torch import Tensor

GRID = (15, 20)
"""Patches of its images, rows and columns: 240 x 320 pixels in patches of 16."""

dreamdojo_config = partial(
    LamConfig,
    stem="patch",
    input="action_token",
    condition="broadcast",
    tokens=1,
    quantised_share=1.0,
    code_gradient=True,
    residual=False,
    flow_weight=0.0,
)
"""DreamDojo's network, but for its sizes."""
dreamdojo_pair = partial(
    PairConfig,
    crop=True,
    resize="linear",
    camera_compensation=False,
    flow="none",
    gap_s=(0.1, 0.2, 0.3, 0.4),
    extract_gap_s=0.2,
)
"""What it is shown, but for the size: the middle of the image. Its gaps are one to four frames, whatever the rate; here the same
of video of ten frames a second."""
dreamdojo_quantiser = partial(QuantiserConfig, kind="gaussian", kl_weight=1e-4)
"""Its 1e-6, where a mean square error counts 100 times."""

_RULES = [
    (r"action_prompt", "encoder.branches.0.prompt"),
    (r"encoder\.ffn\.(\d)\.(weight|bias)", r"encoder.branches.0.stem.net.\1.\2"),
    (r"encoder\.out\.(weight|bias)", r"encoder.branches.0.out.\1"),
    (r"fc\.(weight|bias)", r"encoder.branches.0.moments.\1"),
    (r"patch_up\.(weight|bias)", r"decoder.patches.\1"),
    (r"action_up\.(weight|bias)", r"decoder.enter.\1"),
    (r"decoder\.ffn\.(\d)\.(weight|bias)", r"decoder.stem.\1.\2"),
    (r"decoder\.out\.(weight|bias)", r"decoder.out.\1"),
    *block_rules("encoder", "encoder.branches.0", ("space", "time", "ff")),
    *block_rules("decoder", "decoder", ("space", "ff")),
]

_ACROSS = ("encoder.branches.0.prompt", "encoder.branches.0.stem.net.1.weight", "decoder.patches.weight")
"""Whose last dimension is the numbers of a patch."""
_ALONG = (
    "encoder.branches.0.stem.net.0.weight",
    "encoder.branches.0.stem.net.0.bias",
    "decoder.out.weight",
    "decoder.out.bias",
)
"""Whose first is."""


class DreamDojo(Adapter):
    """`latent` is the mean of 32 numbers; no codes."""

    name = "DreamDojo"
    marks = (
        "action_prompt",
        "action_up.weight",
        "fc.weight",
        "encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs",
    )

    @classmethod
    def config(cls, weights: Weights, settings: Mapping[str, Any]) -> LamConfig:
        dim, latent_dim = weights["action_up.weight"].shape
        width = 2 * len(weights["encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs"])
        patch = math.isqrt(weights["action_prompt"].shape[-1] // 3)
        if 3 * patch**2 != weights["action_prompt"].shape[-1] or dim % width:
            raise ValueError(
                f"a DreamDojo checkpoint whose patches hold {weights['action_prompt'].shape[-1]} numbers and whose heads are {width} "
                f"of {dim} wide: giza reads its models of square patches of RGB"
            )
        rows, columns = GRID
        return dreamdojo_config(
            pair=dreamdojo_pair(image_size=rows * patch, image_width=columns * patch),
            patch=patch,
            dim=dim,
            heads=dim // width,
            spatial_depth=depth(weights, "encoder.transformer_blocks."),
            decoder_depth=depth(weights, "decoder.transformer_blocks."),
            latent_dim=latent_dim,
            quantiser=dreamdojo_quantiser(),
        )

    @classmethod
    def renamed(cls, weights: Weights) -> dict[str, Tensor]:
        found = keys_and_values_joined(rename(weights, _RULES))
        for name in _ACROSS:
            if name in found:
                found[name] = _channels_first(found[name], -1).reshape(found[name].shape)
        for name in _ALONG:
            if name in found:
                found[name] = _channels_first(found[name], 0)
        if "encoder.branches.0.prompt" in found:
            found["encoder.branches.0.prompt"] = found["encoder.branches.0.prompt"].flatten(0, 1)
        return found


def _channels_first(x: Tensor, dim: int) -> Tensor:
    """Numbers of a patch along `dim`: theirs are rows, columns, colours; here colours come first."""
    patch = math.isqrt(x.shape[dim] // 3)
    apart = x.unflatten(dim, (patch, patch, 3))
    first = dim % x.ndim
    return apart.movedim(first + 2, first).flatten(first, first + 2)
