"""Standardised targets: no common direction, no background, ranks and missing cameras."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from flare import ranks
from flare.collapse import CollapseMonitor
from flare.config import FlareConfig
from flare.targets import (
    StandardisedTarget,
    TargetEncoder,
    TargetShape,
    build_target,
)
from tests.flare.test_targets import SmallVision, images


def standardised(steps: int) -> tuple[TargetEncoder, Tensor]:
    torch.manual_seed(0)
    vision = SmallVision()
    vision.net[2].bias.data += 3  # a mean that all targets share
    target = build_target(FlareConfig(standardise=True), TargetShape(4, 16, vision=vision))
    for step in range(steps):
        target(images(64, 1, 3, 16, 16, seed=step), [""] * 64)
        target.update(vision)
    return target, images(64, 1, 3, 16, 16, seed=99)


def test_standardised_targets_have_no_common_direction() -> None:
    target, shown = standardised(5)
    assert isinstance(target, StandardisedTarget)

    def mean_baseline(encode: TargetEncoder) -> float:
        monitor, out = CollapseMonitor(), encode(shown, [""] * 64)
        monitor.add(out, out, torch.ones(64).bool())
        report = monitor.report()
        assert report is not None
        return report.mean_baseline

    assert mean_baseline(target.inner) > 0.95
    assert mean_baseline(target) < 0.6
    flat = target(shown, [""] * 64).flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(12), atol=0.3, rtol=0)
    torch.testing.assert_close(flat.std(0), torch.ones(12), atol=0.3, rtol=0)
    # evaluation between two updates does not move the statistics
    before = target.mean.clone()
    target(shown, [""] * 64)
    assert torch.equal(target.mean, before)


def test_a_still_background_is_taken_out_token_by_token() -> None:
    vision = SmallVision()
    target = build_target(FlareConfig(standardise=True), TargetShape(4, 16, vision=vision))
    torch.manual_seed(0)
    background = 255 * torch.rand(1, 1, 3, 16, 16)
    shown = (0.9 * background + 25 * torch.rand(64, 1, 3, 16, 16)).to(torch.uint8)  # each token has its own mean
    flat = target(shown, [""] * 64)
    torch.testing.assert_close(flat.mean(0), torch.zeros(4, 12), atol=1e-3, rtol=0)
    assert (flat.std(0) > 0.5).all()


def test_missing_cameras_have_no_part_in_the_statistics() -> None:
    torch.manual_seed(0)
    vision = SmallVision()
    target = build_target(FlareConfig(standardise=True), TargetShape(4, 16, 2, vision=vision))
    assert isinstance(target, StandardisedTarget)
    shown = images(32, 2, 3, 16, 16)
    seen = torch.ones(32, 2, dtype=torch.bool)
    seen[10:, 1] = False
    target(shown, [""] * 32, image_mask=seen)
    target.update(vision)
    raw = target.inner(shown, [""] * 32)
    torch.testing.assert_close(target.mean[:2], raw[:, :2].mean(0))
    torch.testing.assert_close(target.mean[2:], raw[:10, 2:].mean(0))


def test_a_rank_without_futures_takes_part_in_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the others would wait for it without end."""
    target, shown = standardised(0)
    assert isinstance(target, StandardisedTarget)
    raw = target.inner(shown, [""] * 64)
    calls: list[Tensor] = []
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", calls.append)  # the other adds nothing
    nothing = torch.zeros(64, dtype=torch.bool)
    targets, token_mask = target.of_batch(shown, [""] * 64, nothing)
    empty, calls = calls, []
    monkeypatch.setattr(dist, "all_reduce", calls.append)
    target.of_batch(shown, [""] * 64, ~nothing)
    assert [each.shape for each in empty] == [each.shape for each in calls] and len(calls) == 3
    assert not targets.any() and not token_mask.any()
    target.update(SmallVision())
    torch.testing.assert_close(target.mean, raw.mean(0))
    before = target.mean.clone()
    target.update(SmallVision())  # no batch in between
    assert torch.equal(target.mean, before)
