"""A module's slow copy: FLARE's targets and the policy that is saved are averages of weights over training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel


class SlowCopy(AveragedModel):
    """A copy of `module` that follows it: copy <- decay * copy + (1 - decay) * module; buffers are copied. 1: it stays.

    It takes no gradients, stays in evaluation mode and is kept in float32: in bfloat16 a step of 1 - 0.995 is below the
    spacing of the numbers, and the copy would stand still.

    warm_up: the k-th update (from 1) uses min(decay, k / (k + 9)), so that the first hundreds of updates do not hang on to
    the random start. Off where the start is a trained model. Raises ValueError for a decay outside [0, 1].

    What `module` does not train is copied once: a frozen vision-language model is most of a policy's weights.
    """

    def __init__(self, module: nn.Module, decay: float, *, warm_up: bool = False) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay {decay}: in [0, 1]; 0.995 is FLARE's, 1 freezes the copy")

        super().__init__(module)
        self.decay, self._warm_up = decay, warm_up
        self.float().eval().requires_grad_(False)
        self.n_averaged += 1  # torch's first update would take the module as it is; what was copied is the first

    def train(self, mode: bool = True) -> SlowCopy:
        super().train(False)
        return self

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One step towards `model`, after the optimiser's."""
        if self.decay == 1:
            return
        update = int(self.n_averaged)
        kept = min(self.decay, update / (update + 9)) if self._warm_up else self.decay
        for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
            if theirs.requires_grad:
                mine.lerp_(_as(mine, theirs), 1 - kept)
        for kept_buffer, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept_buffer.copy_(buffer)
        self.n_averaged += 1


def _as(mine: Tensor, theirs: Tensor) -> Tensor:
    """`theirs` where and as wide as `mine`; whole where the module is in shards (FSDP), but this copy of it is not."""
    if isinstance(theirs, DTensor) and not isinstance(mine, DTensor):
        theirs = theirs.full_tensor()
    return theirs.to(mine.device, mine.dtype)
