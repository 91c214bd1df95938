"""FSDP as a strategy of Lightning's trainer: weights, gradients and the optimiser's state in shards, one to a process.

Checkpoints are those of DDP and of one process, so that a training may go on in another layout: the first process gathers
them, one tensor after the other, and writes; each reads, and keeps its shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from vla.sharding import gathered


class Sharded(ModelParallelStrategy):
    """For a module whose `configure_model` shards it over `device_mesh["data_parallel"]`."""

    def __init__(self, devices: int) -> None:
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        whole = optimizer.state_dict()
        return {**whole, "state": {place: gathered(values) for place, values in whole["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                place: {
                    name: _like(value, parameters[place]) if value.shape == parameters[place].shape else value
                    for name, value in values.items()
                }
                for place, values in whole["state"].items()
            }
            optimizer.load_state_dict({**whole, "state": state})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)


@torch.no_grad()
def _like(value: Tensor, own: Tensor | None) -> Tensor:
    """The shard that `own` is of `value`; `value` where that is whole."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device, own.dtype), own.device_mesh, own.placements)
