"""Flow matching against slow loops: interpolation, loss, the published distributions of time, masks, the Euler sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vla.models.config import FlowConfig
from vla.models.flow_matching import (
    bucket,
    euler,
    flow_loss_per_sample,
    noised,
    sample_start,
    sample_time,
)

B, H, D = 4, 5, 3


def times(count: int, config: FlowConfig, *, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return sample_time(count, config)


def some(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_mask(seed: int = 5) -> torch.Tensor:
    mask = some(B, H, D, seed=seed) > 0
    mask[1] = False  # a sample without actions
    mask[2] = True
    return mask


def test_the_noised_chunk_and_its_velocity_are_those_of_slow_loops() -> None:
    action, noise = some(B, H, D, seed=0), some(B, H, D, seed=1)
    time = torch.tensor([0.0, 0.25, 0.7, 0.999])
    x, velocity = noised(action, noise, time)
    for b in range(B):
        t = time[b].item()
        for h in range(H):
            for d in range(D):
                a, e = action[b, h, d].item(), noise[b, h, d].item()
                assert x[b, h, d].item() == pytest.approx((1 - t) * e + t * a, abs=1e-6)
                assert velocity[b, h, d].item() == pytest.approx(a - e, abs=1e-6)
    assert torch.equal(x[0], noise[0])  # t = 0 is noise


def test_the_velocity_leads_from_the_noised_chunk_to_the_action() -> None:
    action, noise, time = some(B, H, D, seed=0), some(B, H, D, seed=1), torch.tensor([0.1, 0.4, 0.6, 0.9])
    x, velocity = noised(action, noise, time)
    torch.testing.assert_close(x + (1 - time)[:, None, None] * velocity, action)


def test_the_loss_is_that_of_slow_loops() -> None:
    predicted, velocity, mask = some(B, H, D, seed=2), some(B, H, D, seed=3), some_mask()
    squares: list[list[float]] = [[] for _ in range(B)]
    for b in range(B):
        for h in range(H):
            for d in range(D):
                if mask[b, h, d]:
                    squares[b].append((predicted[b, h, d].item() - velocity[b, h, d].item()) ** 2)
    each = [sum(sample) / len(sample) if sample else 0.0 for sample in squares]
    assert flow_loss_per_sample(predicted, velocity, mask).tolist() == pytest.approx(each, rel=1e-5)
    assert each[1] == 0


def test_nothing_known_is_exactly_zero_with_zero_gradients() -> None:
    predicted = some(B, H, D, seed=2).requires_grad_()
    nothing = torch.zeros(B, H, D, dtype=torch.bool)
    value = flow_loss_per_sample(predicted, some(B, H, D, seed=3), nothing).sum()
    value.backward()
    assert value.item() == 0
    assert predicted.grad is not None and predicted.grad.abs().max() == 0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["prediction", "target"])
def test_what_stands_under_the_mask_does_not_matter(broken: float, where: str) -> None:
    mask = some_mask()
    predicted, velocity = some(B, H, D, seed=2), some(B, H, D, seed=3)
    expected = flow_loss_per_sample(predicted, velocity, mask)
    dirty = (predicted if where == "prediction" else velocity).masked_fill(~mask, broken)
    predicted = (dirty if where == "prediction" else predicted).clone().requires_grad_()
    velocity = dirty if where == "target" else velocity
    found = flow_loss_per_sample(predicted, velocity, mask)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()
    assert predicted.grad[~mask].abs().max() == 0
    assert predicted.grad[mask].abs().min() > 0


DISTRIBUTIONS = [("n1", 1.5, 1.0), ("n1_6", 1.5, 1.0), ("n1", 1.0, 2.5), ("n1_6", 2.0, 3.0)]


@pytest.mark.parametrize(("form", "alpha", "beta"), DISTRIBUTIONS)
def test_times_are_distributed_as_published(form, alpha: float, beta: float) -> None:
    count = 40_000
    config = FlowConfig(time=form, alpha=alpha, beta=beta)
    time = times(count, config, seed=0).double().numpy()
    assert time.min() >= 0 and time.max() < 1
    b = stats.beta(alpha, beta)
    mean = (0.999 - b.mean()) / 0.999 if form == "n1" else (1 - b.mean()) * 0.999
    assert time.mean() == pytest.approx(mean, abs=5 * b.std() / math.sqrt(count))
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        # t falls with b, so its quantile at `level` is where b has 1 - `level` below it
        under = b.ppf(1 - level)
        expected = (0.999 - under) / 0.999 if form == "n1" else (1 - under) * 0.999
        assert np.quantile(time, level) == pytest.approx(max(expected, 0.0), abs=0.012)


def test_more_than_half_of_the_times_are_noisy_and_the_forms_differ_as_published() -> None:
    n1 = times(1000, FlowConfig(time="n1"), seed=0)
    n1_6 = times(1000, FlowConfig(time="n1_6"), seed=0)
    assert (n1 < 0.5).float().mean() > 0.6
    # of the same b: 1 - b / s against s - b s
    b = (1 - n1) * 0.999
    inside = n1 > 0  # where b > s, the first is cut off at 0
    torch.testing.assert_close(n1_6[inside], (1 - b)[inside] * 0.999, atol=1e-5, rtol=0)
    assert (n1 - n1_6).abs().max() > 5e-4


def test_times_repeat_by_their_seed() -> None:
    for config in (FlowConfig(), FlowConfig(alpha=2.0, beta=3.0)):
        first, again, other = (times(50, config, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_buckets_are_the_whole_part_and_stay_inside() -> None:
    time = torch.tensor([0.0, 0.0004, 0.5, 0.9985, 0.999, 1.0])
    assert bucket(time, FlowConfig()).tolist() == [0, 0, 500, 998, 999, 999]
    assert bucket(time, FlowConfig(buckets=10)).tolist() == [0, 0, 5, 9, 9, 9]


def test_euler_on_a_field_that_is_known() -> None:
    noise, action = some(B, H, D, seed=1), some(B, H, D, seed=0)
    seen: list[float] = []

    def straight(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        assert time.shape == (B,)
        seen.append(time[0].item())
        return action - noise

    # along a straight path any number of steps is exact
    for steps in (1, 4, 7):
        torch.testing.assert_close(euler(straight, noise, steps), action)
    assert seen == pytest.approx([0, *(k / 4 for k in range(4)), *(k / 7 for k in range(7))])
    # dx/dt = -x + t: Euler's own recursion, and its error of first order against exp(-t) x0 + t - 1 + exp(-t)
    exact = math.exp(-1) * noise + math.exp(-1)
    errors = []
    for steps in (8, 16, 32):
        x = noise.clone()
        for k in range(steps):
            x = x + (-x + k / steps) / steps
        found = euler(lambda x, time: -x + time[:, None, None], noise, steps)
        torch.testing.assert_close(found, x)
        errors.append((found - exact).abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0}, "alpha 0"),
        ({"buckets": 0}, "buckets 0"),
        ({"steps": 0}, "steps 0"),
        ({"draws": 0}, "draws 0"),
        ({"middle": 1.5}, "middle 1.5"),
        ({"middle": 0.25, "draws": 2}, r"0.25 of 2 draws is 0.5 .* a whole number; choose middle 0 or 0.5"),
        ({"middle": 0.75, "draws": 2}, "choose middle 0.5 or 1, or other draws"),
    ],
)
def test_settings_without_sense_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FlowConfig(**options)
    with pytest.raises(ValueError, match="steps 0"):
        euler(lambda x, time: x, torch.zeros(1, 1, 1), 0)


def test_the_middles_share_of_the_draws_has_neither_noise_nor_time() -> None:
    shape = torch.Size([4200, 3, 2])
    for draws, share in ((1, 0.25), (4, 0.25), (2, 0.5), (3, 0.333333)):
        noise, time = sample_start(shape, FlowConfig(middle=share, draws=draws))
        middle = ~noise.flatten(1).any(1)
        assert not time[middle].any() and time[~middle].median() > 0.2
        if draws > 1:  # the same of every sample's draws
            assert (middle.view(-1, draws) == (torch.arange(draws) < round(share * draws))).all()
        else:
            assert middle.float().mean().item() == pytest.approx(share, abs=0.03)
        assert noise[~middle].std().item() == pytest.approx(1, abs=0.02)
    noise, _ = sample_start(shape, FlowConfig())
    assert noise.flatten(1).any(1).all()
