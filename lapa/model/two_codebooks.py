"""UniVLA's second stage (arXiv 2505.06111, section 3.1): task-centric codes, learned beside frozen ones that hold the
rest."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lapa.model.quantiser import Quantised, Quantiser


class TwoCodebooks(Quantiser):
    """`z` [B, 2 * tokens, dim]: first the latent's tokens, which `task` codes, then as many of stage 1's, whose
    codebook `frozen` stays as it is: they take what is not the task's, and are no part of the latent."""

    def __init__(self, task: Quantiser, frozen: Quantiser) -> None:
        super().__init__(task.config, 0, task.tokens)
        self.task = task
        self.frozen = frozen.requires_grad_(False).eval()
        self.continuous = task.continuous

    @property
    def codebook(self) -> Tensor | None:
        return self.task.codebook

    @property
    def usual_rest(self) -> Tensor | None:
        """The mean of the frozen codes; None where they cannot be listed."""
        codes = self.frozen.codebook
        return None if codes is None else codes.detach().mean(0).expand(self.tokens, -1)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.task.sizes

    @property
    def settled(self) -> bool:
        return self.task.settled and self.frozen.settled

    def adopt(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Stage 1's codebook becomes the frozen one; of another stage 2 both are taken."""
        if all(name.startswith(("task.", "frozen.")) for name in weights):
            return weights
        return {"frozen." + name: value for name, value in weights.items()}

    def train(self, mode: bool = True) -> TwoCodebooks:
        super().train(mode)
        self.frozen.eval()  # in training mode its codes and their running means would move
        return self

    def forward(self, z: Tensor) -> Quantised:
        latent, rest = z.float().split(self.tokens, 1)
        task, other = self.task(latent), self.frozen(rest)
        seen = rest + (other.quantized - rest).detach() if self.training else other.quantized  # straight through
        return Quantised(task.quantized, task.codes, task.loss + other.loss, seen)
