"""The collapse monitor against slow loops over all samples, and the alarm on collapsed and on healthy targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flare.collapse import AlignmentReport, CollapseAlarm, CollapseMonitor


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / a.norm() / b.norm())


def watch(
    predicted: Tensor, target: Tensor, *, present: Tensor | None = None, has_future: Tensor | None = None, size: int = 7
) -> AlignmentReport:
    monitor = CollapseMonitor()
    has_future = torch.ones(len(target)).bool() if has_future is None else has_future
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        monitor.add(
            predicted[part],
            target[part],
            has_future[part],
            present=None if present is None else present[part],
        )
    report = monitor.report()
    assert report is not None
    return report


@pytest.fixture
def made() -> tuple[Tensor, Tensor, Tensor]:
    """Targets with a mean of their own per token, predictions and presents that resemble them; [40, 3, 6]."""
    torch.manual_seed(0)
    target = torch.randn(40, 3, 6) * torch.tensor([2, 1, 1, 0.5, 0.1, 0]) + torch.randn(3, 6)
    return target + 0.5 * torch.randn(40, 3, 6), target, target + 0.8 * torch.randn(40, 3, 6)


def test_streamed_numbers_are_those_of_slow_loops(made: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, target, present = made
    has_future = torch.rand(40) < 0.7
    target[~has_future] = 1e6  # must not be seen
    report = watch(predicted, target, present=present, has_future=has_future)
    p, t, c = (x[has_future].double() for x in (predicted, target, present))
    n, places = len(t), range(3)
    mean_direction = [sum(t[b, m] / t[b, m].norm() for b in range(n)) for m in places]
    every = [(b, m) for b in range(n) for m in places]
    pairs = [(b, o, m) for b in range(n) for o in range(n) if o != b for m in places]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    assert report.samples == n
    assert report.alignment == pytest.approx(mean([cosine(p[b, m], t[b, m]) for b, m in every]))
    assert report.copy_baseline == pytest.approx(mean([cosine(c[b, m], t[b, m]) for b, m in every]))
    assert report.mean_baseline == pytest.approx(mean([cosine(mean_direction[m], t[b, m]) for b, m in every]))
    assert report.prediction_to_mean == pytest.approx(mean([cosine(mean_direction[m], p[b, m]) for b, m in every]))
    assert report.other_baseline == pytest.approx(mean([cosine(p[b, m], t[o, m]) for b, o, m in pairs]))
    variance = torch.stack([t[:, m].var(0, unbiased=False) for m in places])
    assert report.variance == pytest.approx(float(variance.mean()))
    assert report.relative_variance == pytest.approx(float(variance.mean() / (t**2).mean()))
    assert report.dead_features == pytest.approx(1 / 6)
    centred = torch.cat([t[:, m] - t[:, m].mean(0) for m in places])
    share = torch.linalg.svdvals(centred) ** 2
    share = share[share > 1e-9] / share.sum()
    assert report.effective_rank == pytest.approx(math.exp(-float((share * share.log()).sum())), rel=1e-5)


def test_no_constant_beats_the_mean_baseline(made: tuple[Tensor, Tensor, Tensor]) -> None:
    target = made[1]
    best = watch(target, target).mean_baseline
    constant = torch.randn(3, 6, requires_grad=True)
    optimiser = torch.optim.Adam([constant], 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        reached = torch.cosine_similarity(constant.expand_as(target), target, dim=-1).mean()
        (-reached).backward()
        optimiser.step()
    assert best >= reached.item() - 1e-6
    assert best == pytest.approx(reached.item(), abs=1e-3)


def test_the_skill_is_measured_from_the_better_trivial_predictor(made: tuple[Tensor, Tensor, Tensor]) -> None:
    _, target, present = made
    assert watch(target, target, present=present).skill == pytest.approx(1)
    assert watch(present, target, present=present).skill == pytest.approx(0, abs=1e-9)
    rolled = watch(target.roll(1, 0), target, present=present)
    assert rolled.skill < -0.5
    without = watch(target, target)
    assert math.isnan(without.copy_baseline)
    assert "copy_baseline" not in without.scalars()
    assert without.scalars()["skill_higher_is_better"] == pytest.approx(1)


def test_rank_counts_dimensions_that_vary() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16)).Q[:3]
    target = torch.randn(2000, 2, 3) @ basis + 5 * torch.randn(2, 16)  # a constant pattern is no variance
    assert watch(target, target, size=500).effective_rank == pytest.approx(3, abs=0.02)


def alarm(predicted: Tensor, target: Tensor, present: Tensor | None = None) -> str:
    return " | ".join(CollapseAlarm().reasons(watch(predicted, target, present=present)))


def test_a_healthy_target_raises_no_alarm(made: tuple[Tensor, Tensor, Tensor]) -> None:
    assert alarm(*made) == ""
    torch.manual_seed(1)
    anisotropic = torch.randn(64, 4, 32) + 3 * torch.randn(4, 32)  # a large common mean, as vision models have
    assert watch(anisotropic, anisotropic).mean_baseline > 0.85
    assert alarm(anisotropic, anisotropic) == ""


def test_each_collapse_raises_its_alarm(made: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, target, _ = made
    torch.manual_seed(2)
    constant = torch.randn(3, 6).expand(40, 3, 6)
    collapsed = constant + 1e-3 * torch.randn(40, 3, 6)
    assert "targets point one way" in alarm(predicted, collapsed)
    assert "targets hardly vary" in alarm(predicted, collapsed)
    assert "features do not move" in alarm(predicted, collapsed)
    assert "vary in 0.00 dimensions" in alarm(predicted, constant)
    line = torch.randn(40, 3, 1) * torch.randn(6) + torch.randn(3, 6)
    assert "vary in 1.00 dimensions" in alarm(predicted, line)
    assert "the future looks like the present" in alarm(predicted, target, target + 1e-4)
    mean = torch.nn.functional.normalize(target, dim=-1).mean(0).expand_as(target)
    assert "predictions are the mean target" in alarm(mean, target)


def test_few_samples_raise_no_alarm() -> None:
    assert CollapseAlarm().reasons(None) == []
    same = torch.ones(8, 3, 6)
    assert CollapseAlarm().reasons(watch(same, same)) == []
    monitor = CollapseMonitor()
    assert monitor.report() is None
    monitor.add(same, same, torch.zeros(8).bool())
    assert monitor.report() is None


def test_shapes_that_do_not_fit_are_errors() -> None:
    monitor = CollapseMonitor()
    with pytest.raises(ValueError, match=r"'predicted': \[2, 3, 4\], 'target': \[2, 3, 5\]"):
        monitor.add(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.ones(2).bool())
    monitor.add(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2).bool())
    with pytest.raises(ValueError, match="reset the monitor"):
        monitor.add(torch.ones(2, 3, 5), torch.ones(2, 3, 5), torch.ones(2).bool())
    monitor.reset()
    monitor.add(torch.ones(2, 3, 5), torch.ones(2, 3, 5), torch.ones(2).bool())
