"""Standardised targets: no common direction, no background, ranks and missing cameras."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

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


def test_ranks_share_the_statistics_and_one_without_futures_has_no_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    target, shown = standardised(0)
    assert isinstance(target, StandardisedTarget)
    raw = target.inner(shown, [""] * 64)
    calls: list[int] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda value: calls.append(1))  # the others add nothing
    target(shown, [""] * 64)
    vision = SmallVision()
    target.update(vision)
    torch.testing.assert_close(target.mean, raw.mean(0))
    before = target.mean.clone()
    target.update(vision)  # no batch in between: still takes part in the sum, or the other ranks would wait for ever
    assert len(calls) == 2
    assert torch.equal(target.mean, before)
