"""A module's slow copy: FLARE's targets and the policy that is saved are averages of weights over training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class SlowCopy(AveragedModel):
    """A copy of `module` that follows it: copy <- decay * copy + (1 - decay) * module; buffers are copied. 1: it stays.

    It takes no gradients, stays in evaluation mode and is kept in float32: in bfloat16 a step of 1 - 0.995 is below the
    spacing of the numbers, and the copy would stand still.

    warm_up: the k-th update (from 1) uses min(decay, k / (k + 9)), so that the first hundreds of updates do not hang on to
    the random start. Off where the start is a trained model. Raises ValueError for a decay outside [0, 1].
    """

    def __init__(self, module: nn.Module, decay: float, *, warm_up: bool = False) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay {decay}: in [0, 1]; 0.995 is FLARE's, 1 freezes the copy")

        def step(mine: Tensor, theirs: Tensor, update: Tensor | int) -> Tensor:
            kept = min(decay, int(update) / (int(update) + 9)) if warm_up else decay
            return mine.lerp(theirs.to(mine), 1 - kept)

        super().__init__(module, avg_fn=step)  # type: ignore[arg-type]
        self.decay = decay
        self.float().eval().requires_grad_(False)
        self.n_averaged += 1  # torch's first update would take the module as it is; what was copied is the first

    def train(self, mode: bool = True) -> SlowCopy:
        super().train(False)
        return self

    def update_parameters(self, model: nn.Module) -> None:
        """One step towards `model`, after the optimiser's."""
        if self.decay < 1:
            super().update_parameters(model)
