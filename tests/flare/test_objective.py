"""FLARE's objective against slow loops, its faults as errors, its weight per dataset."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flare.config import FlareConfig
from flare.objective import AlignmentHead, alignment_loss, mean_alignment


def slow_loss(predicted: Tensor, target: Tensor, has_future: Tensor, token_mask: Tensor | None = None) -> float:
    per_sample = []
    for b in range(len(predicted)):
        distances = []
        for m in range(predicted.shape[1]):
            if not has_future[b] or (token_mask is not None and not token_mask[b, m]):
                continue
            p, t = predicted[b, m].double().tolist(), target[b, m].double().tolist()
            dot = sum(x * y for x, y in zip(p, t, strict=True))
            distances.append(1 - dot / math.sqrt(sum(x * x for x in p)) / math.sqrt(sum(y * y for y in t)))
        if distances:
            per_sample.append(sum(distances) / len(distances))
    return sum(per_sample) / len(per_sample) if per_sample else 0.0


def mean_loss(
    predicted: Tensor, target: Tensor, has_future: Tensor, token_mask: Tensor | None = None, align: Tensor | None = None
) -> Tensor:
    """As a training takes it: the mean over the samples that have a future of which something is seen."""
    loss = alignment_loss(predicted, target, has_future, token_mask=token_mask)
    return mean_alignment(loss, has_future if token_mask is None else has_future & token_mask.any(1), align)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, 4, 7, requires_grad=True), torch.randn(5, 4, 7)


@pytest.mark.parametrize("present", [[1, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
def test_the_loss_is_that_of_slow_loops(pair: tuple[Tensor, Tensor], present: list[int]) -> None:
    has_future = torch.tensor(present).bool()
    torch.testing.assert_close(mean_loss(*pair, has_future).item(), slow_loss(*pair, has_future))
    token_mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    masked = mean_loss(*pair, has_future, token_mask)
    torch.testing.assert_close(masked.item(), slow_loss(*pair, has_future, token_mask))


def test_the_cosine_is_over_features_not_tokens() -> None:
    torch.manual_seed(0)
    target = torch.randn(3, 6, 6)  # as many tokens as features: a wrong axis would not be seen by shapes
    predicted = target * torch.tensor([0.1, 1, 2, 5, 10, 30])[None, :, None]  # each token keeps its direction
    everyone = torch.ones(3, dtype=torch.bool)
    assert mean_loss(predicted, target, everyone).item() == pytest.approx(0, abs=1e-6)
    over_tokens = 1 - torch.cosine_similarity(predicted, target, dim=1).mean()
    assert over_tokens > 0.1
    assert mean_loss(-predicted, target, everyone).item() == pytest.approx(2, abs=1e-6)


def test_a_batch_without_futures_is_exactly_zero_with_finite_gradients() -> None:
    torch.manual_seed(0)
    head = AlignmentHead(8, 6, tokens=4)
    loss = mean_loss(head(torch.randn(3, 4, 8)), torch.full((3, 4, 6), math.nan), torch.zeros(3).bool())
    loss.backward()
    assert loss.item() == 0.0
    gradients = [p.grad for p in head.parameters()]
    assert all(g is not None and torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_a_sample_without_future_changes_nothing_at_all(pair: tuple[Tensor, Tensor]) -> None:
    predicted, target = pair
    has_future = torch.tensor([True, False, True, True, False])
    loss = mean_loss(predicted, target, has_future)
    (gradient,) = torch.autograd.grad(loss, predicted)
    other = target.clone()
    other[1], other[4] = math.nan, -1e30
    again = mean_loss(predicted, other, has_future)
    (gradient_again,) = torch.autograd.grad(again, predicted)
    assert torch.equal(loss, again)
    assert torch.equal(gradient, gradient_again)
    assert gradient[[1, 4]].abs().max() == 0
    assert gradient[[0, 2, 3]].abs().amax((1, 2)).min() > 0


def test_no_gradient_reaches_the_target(pair: tuple[Tensor, Tensor]) -> None:
    predicted, target = pair
    target.requires_grad_()
    mean_loss(predicted, target, torch.ones(5).bool()).backward()
    assert target.grad is None
    assert predicted.grad is not None and predicted.grad.abs().sum() > 0


def test_half_precision_states_give_a_float32_loss(pair: tuple[Tensor, Tensor]) -> None:
    everyone = torch.ones(5).bool()
    loss = mean_loss(pair[0].bfloat16(), pair[1], everyone)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_loss(*pair, everyone), abs=5e-3)


@pytest.mark.parametrize(
    ("predicted", "target", "has_future", "match"),
    [
        ((2, 4, 7), (2, 4, 8), (2,), r"predicted \[2, 4, 7\] against target \[2, 4, 8\]"),
        ((2, 4, 7), (2, 1, 7), (2,), r"predicted \[2, 4, 7\] against target \[2, 1, 7\]"),
        ((2, 4, 7), (1, 4, 7), (2,), r"predicted \[2, 4, 7\] against target \[1, 4, 7\]"),
        ((2, 7), (2, 7), (2,), r"predicted \[2, 7\] against target \[2, 7\]"),
        ((2, 4, 7), (2, 4, 7), (2, 1), r"has_future torch.bool \[2, 1\] for predicted \[2, 4, 7\]"),
        ((2, 4, 7), (2, 4, 7), (3,), r"has_future torch.bool \[3\] for predicted \[2, 4, 7\]"),
    ],
)
def test_a_wrong_shape_is_an_error_with_both_shapes(
    predicted: tuple[int, ...], target: tuple[int, ...], has_future: tuple[int, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        alignment_loss(torch.randn(predicted), torch.randn(target), torch.ones(has_future).bool())


def test_sentinels_and_broken_targets_are_errors(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="has_future torch.float32"):
        alignment_loss(*pair, torch.ones(5))
    with pytest.raises(ValueError, match=r"token_mask torch.bool \[5\]"):
        alignment_loss(*pair, torch.ones(5).bool(), token_mask=torch.ones(5).bool())
    pair[1][3, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"targets of samples 3 hold NaN"):
        alignment_loss(*pair, torch.ones(5).bool())


def test_the_head_wants_the_future_tokens_alone() -> None:
    head = AlignmentHead(8, 6, tokens=4, hidden=16)
    assert head(torch.randn(2, 4, 8)).shape == (2, 4, 6)
    with pytest.raises(ValueError, match=r"states \[2, 21, 8\] for a head of \[B, 4, 8\]"):
        head(torch.randn(2, 21, 8))


def test_the_head_learns_to_align() -> None:
    torch.manual_seed(0)
    states, mix = torch.randn(64, 4, 8), torch.randn(8, 6)
    head = AlignmentHead(8, 6, tokens=4, hidden=32)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    has_future = torch.rand(64) < 0.5
    target = torch.tanh(states @ mix)
    before = mean_loss(head(states), target, has_future).item()
    for _ in range(150):
        optimiser.zero_grad()
        mean_loss(head(states), target, has_future).backward()
        optimiser.step()
    assert before > 0.5
    assert mean_loss(head(states), target, has_future).item() < 0.1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"coefficient": -1.0}, "coefficient -1.0"),
        ({"future_s": 0.0}, "future_s 0.0"),
        ({"target": "frozen"}, "without target_name"),
        ({"target": "mean"}, "target 'mean': choose frozen, backbone, action_aware or ema"),
        ({"ema": 1.5}, "ema 1.5"),
        ({"target": "action_aware", "ema": 1.0}, "the target would stay random"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FlareConfig(**fields)


def test_a_dataset_counts_as_much_as_its_weight_says(pair: tuple[Tensor, Tensor]) -> None:
    has_future = torch.tensor([True, True, False, True, True])
    align = torch.tensor([2.0, 0.0, 5.0, 0.5, 1.0])
    each = [slow_loss(*pair, has_future & (torch.arange(5) == b)) for b in range(5)]
    loss = mean_loss(*pair, has_future, align=align)
    assert loss.item() == pytest.approx((2 * each[0] + 0.5 * each[3] + each[4]) / 4, rel=1e-5)
    assert torch.equal(mean_loss(*pair, has_future, align=torch.ones(5)), mean_loss(*pair, has_future))
    (gradient,) = torch.autograd.grad(loss, pair[0])
    assert gradient[1].abs().max() == 0
