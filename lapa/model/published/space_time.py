"""Names of the blocks over space and time that AdaWorld, DreamDojo and UniVLA share
(`lapa.model.action_token.SpaceTimeBlocks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTIONS = {"spatial_attn": "space", "temporal_attn": "time"}


def block_rules(theirs: str, ours: str, norms: Sequence[str]) -> list[tuple[str, str]]:
    """Rules for `rename` of the blocks of `theirs` (encoder or decoder), which are the layers of `ours` here. `norms`:
    what norm1, norm2, ... of a block are in front of."""
    block, layer = rf"{theirs}\.transformer_blocks\.(\d+)\.", rf"{ours}.layers.layers.\1."
    rules = [(rf"{block}norm{n}\.(weight|bias)", rf"{layer}{part}.norm.\2") for n, part in enumerate(norms, 1)]
    for name, part in _ATTENTIONS.items():
        rules.append((rf"{block}{name}\.to_(q|k|v)\.weight", rf"{layer}{part}.to_\2.weight"))
        rules.append((rf"{block}{name}\.to_out\.0\.(weight|bias)", rf"{layer}{part}.to_out.\2"))
    rules.append((rf"{block}ffn\.0\.(weight|bias)", rf"{layer}ff.inner.\2"))
    rules.append((rf"{block}ffn\.3\.(weight|bias)", rf"{layer}ff.outer.\2"))
    return rules


def keys_and_values_joined(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, to_k and to_v of an attention as one to_kv."""
    import torch

    joined = dict(found)
    for name in [name for name in joined if name.endswith(".to_k.weight")]:
        values = name.replace(".to_k.", ".to_v.")
        if values in joined:
            joined[name.replace(".to_k.", ".to_kv.")] = torch.cat([joined.pop(name), joined.pop(values)])
    return joined
