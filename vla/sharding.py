"""A policy in shards (FSDP): what each process keeps of it, and the whole of it again.

Every block, which is an entry of a list of modules, is gathered when it is run, and the rest of what is trained for the
length of a step; optimiser and averages see shards alone. Processes begin with the same weights: those of the seed, or of a
file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Each entry of a list of modules that runs as a whole (has a `forward` of its own), the inner ones first."""
    for part in reversed(list(module.modules())):
        if isinstance(part, nn.ModuleList):
            for block in part:
                if not isinstance(block, nn.ModuleDict | nn.ModuleList) and any(True for _ in block.parameters()):
                    yield block


def shard_blocks(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shards each block."""
    for block in blocks(module):
        fully_shard(block, mesh=mesh)


def shard_root(module: nn.Module, mesh: DeviceMesh, *methods: str, ignored: nn.Module | None = None) -> None:
    """Shards what its blocks leave, all of which is whole within each of its `methods`, but for `ignored`."""
    fully_shard(
        module,
        mesh=mesh,
        reshard_after_forward=True,  # what comes after a validation, the average's update, sees shards
        ignored_params=None if ignored is None else {p for p in ignored.parameters() if not p.requires_grad},
    )
    for method in methods:
        register_fsdp_forward_method(module, method)


def outline(module: nn.Module) -> nn.Module:
    """A copy without weights, to be filled when those of the sharded module are gathered."""
    empty = {id(p): nn.Parameter(p.to("meta"), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, empty)


@torch.no_grad()
def gathered(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with whole tensors, on the CPU of the first process; the others, which must call it too, have None for what was
    in shards."""
    return {name: _whole(value) if isinstance(value, DTensor) else value for name, value in state.items()}


def _whole(value: DTensor) -> Tensor | None:
    whole = value.full_tensor()
    return whole.to("cpu", copy=True) if value.device_mesh.get_rank() == 0 else None
