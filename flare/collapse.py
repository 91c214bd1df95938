"""Is the alignment worth anything? Collapse of targets and predictions, and what trivial predictors would reach.

1 - cosine falls to nothing when all targets become alike, and a low loss is no news when the mean target or the present's
own embedding would do as well. So alignment is always reported beside three numbers, all mean cosines to the target:

    mean    the best prediction that is the same for all samples (one vector a token)
    copy    the embedding of the present
    other   the prediction made for another sample

Everything is streamed: what is held does not grow with the number of samples. Shapes: B batch, M tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corpora.training_config import HIGHER

_AIMS = ("alignment", "effective_rank", "skill")


@dataclass(frozen=True)
class AlignmentReport:
    """What a `CollapseMonitor` saw. Cosines are over the feature axis, means over tokens and samples; NaN: not given."""

    samples: int
    """Samples with a future."""
    alignment: float
    """Cosine of prediction and target; 1 - the alignment loss."""
    mean_baseline: float
    """Cosine of the targets to the best constant: 1 where all targets point the same way. About 1/sqrt(samples) by chance."""
    copy_baseline: float
    """Cosine of the present's embedding to the target."""
    other_baseline: float
    """Cosine of a prediction to another sample's target: as high as `alignment` where predictions do not distinguish samples."""
    prediction_to_mean: float
    """Cosine of the predictions to the mean target: near 1 where the mean is all that was learned."""
    variance: float
    """Variance of the targets over samples, token by token, mean over features."""
    relative_variance: float
    """The same as a share of the targets' mean square, in [0, 1]."""
    dead_features: float
    """Share of features whose deviation over samples is below 1% of the targets' root mean square."""
    effective_rank: float
    """exp of the entropy of the shares of variance along the targets' principal axes (after Roy and Vetterli 2007): D where
    all axes vary alike, 1 where one does, 0 where nothing does."""

    @property
    def skill(self) -> float:
        """Share of what the better of mean and copy leaves open that the prediction closes: 1 perfect, 0 no better, below 0
        worse."""
        known = [value for value in (self.mean_baseline, self.copy_baseline) if not math.isnan(value)]
        trivial = max(known)
        return (self.alignment - trivial) / max(1 - trivial, 1e-6)

    def scalars(self) -> dict[str, float]:
        """By name, for a log, those that are aims saying which direction is good; what was not given is left out."""
        values = {name: float(value) for name, value in asdict(self).items()} | {"skill": self.skill}
        values = {f"{name}{HIGHER}" if name in _AIMS else name: value for name, value in values.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def __str__(self) -> str:
        return (
            f"alignment {self.alignment:.3f} (mean target {self.mean_baseline:.3f}, copy {self.copy_baseline:.3f}, another "
            f"sample's {self.other_baseline:.3f}; skill {self.skill:+.2f}), targets: relative variance "
            f"{self.relative_variance:.3g}, effective rank {self.effective_rank:.1f}, {self.samples} samples"
        )


class CollapseMonitor:
    """Sums over batches; `report` says what they amount to, `reset` starts anew (an epoch, a hold-out, or each batch).

    Sums are float64 on the device of what comes in. The targets' covariance over features is D x D: 8 MB at D = 1024.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all."""
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, predicted: Tensor, target: Tensor, has_future: Tensor, *, present: Tensor | None = None) -> None:
        """`predicted`, `target`, and `present` (the present's embedding by the same encoder) [B, M, D]; `has_future` bool [B].

        Raises ValueError on shapes that do not fit each other or the batches before.
        """
        parts = {"predicted": predicted, "target": target} | ({} if present is None else {"present": present})
        shapes = {name: list(value.shape) for name, value in parts.items()}
        fits = target.ndim == 3 and all(value.shape == target.shape for value in parts.values())
        if not fits or has_future.dtype != torch.bool or has_future.shape != target.shape[:1]:
            raise ValueError(
                f"{shapes} with has_future {has_future.dtype} {list(has_future.shape)}: all are [B, M, D], has_future bool [B]"
            )
        if self._sums and self._sums["target"].shape != target.shape[1:]:
            raise ValueError(
                f"targets {shapes['target']} after batches of [B, *{list(self._sums['target'].shape)}]: reset the monitor first"
            )
        t, p = target[has_future].double(), predicted[has_future].double()
        unit_t, unit_p = F.normalize(t, dim=-1), F.normalize(p, dim=-1)
        sums = {
            "samples": torch.tensor(float(len(t)), dtype=torch.float64, device=t.device),
            "target": t.sum(0),
            "squares": (t**2).sum(0),
            "outer": t.flatten(0, 1).T @ t.flatten(0, 1),
            "unit_target": unit_t.sum(0),
            "unit_predicted": unit_p.sum(0),
            "aligned": (unit_t * unit_p).sum((0, 2)),
            "compared": torch.zeros((), dtype=torch.float64, device=t.device),
            "copied": torch.zeros(t.shape[1], dtype=torch.float64, device=t.device),
        }
        if present is not None:
            sums["compared"] += len(t)
            sums["copied"] = (unit_t * F.normalize(present[has_future].double(), dim=-1)).sum((0, 2))
        self._sums = {name: value + self._sums[name] if self._sums else value for name, value in sums.items()}

    def report(self) -> AlignmentReport | None:
        """What the sums amount to; None where fewer than two samples had a future."""
        if not self._sums or self._sums["samples"] < 2:
            return None
        sums = {name: value.cpu() for name, value in self._sums.items()}
        n, tokens = float(sums["samples"]), len(sums["target"])
        unit_t, unit_p = sums["unit_target"], sums["unit_predicted"]
        mean_direction = F.normalize(unit_t, dim=-1)  # of all constants, this one has the largest mean cosine
        crossed = (unit_t * unit_p).sum(-1) - sums["aligned"]  # all pairs less those of one sample
        mean = sums["target"] / n
        variance = (sums["squares"] / n - mean**2).clamp_min(0)
        power = float((sums["squares"] / n).mean())
        # tokens differ by place: each is centred by its own mean, or a constant pattern would pass for variance
        covariance = (sums["outer"] - n * mean.T @ mean) / (n * tokens)
        compared = float(sums["compared"])
        return AlignmentReport(
            samples=int(n),
            alignment=float(sums["aligned"].mean()) / n,
            mean_baseline=float(unit_t.norm(dim=-1).mean()) / n,
            copy_baseline=float(sums["copied"].mean()) / compared if compared else math.nan,
            other_baseline=float(crossed.mean()) / (n * (n - 1)),
            prediction_to_mean=float((mean_direction * unit_p).sum(-1).mean()) / n,
            variance=float(variance.mean()),
            relative_variance=float(variance.mean()) / power if power > 0 else 0.0,
            dead_features=float((variance.mean(0) <= 1e-4 * power).double().mean()),
            effective_rank=_effective_rank(covariance, power),
        )


@dataclass(frozen=True)
class CollapseAlarm:
    """When targets or predictions count as collapsed."""

    max_mean_baseline: float = 0.99
    """A constant prediction reaches this cosine: the targets say next to nothing. Large frozen vision models lie at 0.7-0.95."""
    min_relative_variance: float = 0.005
    """The targets' variance over samples is below this share of their mean square."""
    min_effective_rank: float = 2.0
    """The targets' variance lies in fewer dimensions than this."""
    max_dead_features: float = 0.9
    """More than this share of the features does not move."""
    max_copy_baseline: float = 0.999
    """The present's embedding is the future's: the horizon is too short, or the embedding blind to what moves."""
    max_prediction_to_mean: float = 0.99
    """Predictions are the mean target, though the targets are less alike than `max_mean_baseline`."""
    min_samples: int = 16
    """With fewer samples nothing is said: two targets are always close to their mean."""

    def reasons(self, report: AlignmentReport | None) -> list[str]:
        """Why `report` alarms, each with its number and what to do; empty: no collapse, or too few samples to tell."""
        if report is None or report.samples < self.min_samples:
            return []
        found = []
        if report.mean_baseline > self.max_mean_baseline:
            found.append(
                f"targets point one way: a constant reaches a cosine of {report.mean_baseline:.4f} (limit "
                f"{self.max_mean_baseline}); standardise the targets, or take another encoder"
            )
        if report.relative_variance < self.min_relative_variance:
            found.append(
                f"targets hardly vary: {report.relative_variance:.2g} of their mean square (limit {self.min_relative_variance}); "
                "the average has collapsed: freeze the target or start from a pre-trained one"
            )
        if report.effective_rank < self.min_effective_rank:
            found.append(
                f"targets vary in {report.effective_rank:.2f} dimensions (limit {self.min_effective_rank}); freeze the target or "
                "take another encoder"
            )
        if report.dead_features > self.max_dead_features:
            found.append(
                f"{report.dead_features:.0%} of the targets' features do not move (limit {self.max_dead_features:.0%}); freeze the "
                "target or take another encoder"
            )
        if report.copy_baseline > self.max_copy_baseline:
            found.append(
                f"the future looks like the present: copying reaches {report.copy_baseline:.4f} (limit {self.max_copy_baseline}); "
                "lengthen the horizon (future_s) or take finer tokens"
            )
        if report.prediction_to_mean > self.max_prediction_to_mean and report.mean_baseline < self.max_mean_baseline:
            found.append(
                f"predictions are the mean target (cosine {report.prediction_to_mean:.4f}, limit {self.max_prediction_to_mean}): "
                "train longer, or check that the future tokens see the images"
            )
        return found


def _effective_rank(covariance: Tensor, power: float) -> float:
    values = torch.linalg.eigvalsh(covariance).clamp_min(0)
    if float(values.sum()) <= 1e-10 * max(power, 1e-30) * len(values):  # rounding alone
        return 0.0
    share = values[values > 0] / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))
