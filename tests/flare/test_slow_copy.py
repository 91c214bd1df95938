"""Slow copies against their closed form, in half precision, and over a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flare.slow_copy import SlowCopy


def moved(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in module.parameters():
        value.data = torch.randn(value.shape, generator=generator).to(value.dtype)


def test_a_slow_copy_equals_its_closed_form_and_goes_on_after_a_checkpoint() -> None:
    online = nn.Linear(3, 2)
    history = [online.weight.detach().clone()]
    slow = SlowCopy(online, decay=0.9)
    for seed in range(20):
        moved(online, seed)
        history.append(online.weight.detach().clone())
        slow.update_parameters(online)
        if seed == 9:
            again = SlowCopy(nn.Linear(3, 2), decay=0.9)
            again.load_state_dict(slow.state_dict())
            slow = again
    # e_n = d^n x_0 + (1 - d) sum_i d^(n - i) x_i
    expected = 0.9**20 * history[0] + 0.1 * sum(0.9 ** (20 - i) * history[i] for i in range(1, 21))
    torch.testing.assert_close(slow.module.weight, expected)
    assert not slow.module.weight.requires_grad


def test_a_slow_copy_takes_buffers_as_they_are_and_one_that_stays_takes_nothing() -> None:
    online = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    slow, stays = SlowCopy(online, decay=0.995), SlowCopy(online, decay=1)
    start = {name: value.clone() for name, value in stays.module.state_dict().items()}
    moved(online, 0)
    online.train()(torch.randn(16, 3))
    for each in (slow, stays):
        each.update_parameters(online)
    assert torch.equal(slow.module[1].running_mean, online[1].running_mean)
    assert slow.module[1].num_batches_tracked == 1
    assert not slow.module[1].training
    assert all(torch.equal(value, start[name]) for name, value in stays.module.state_dict().items())


def test_a_slow_copy_of_bfloat16_weights_does_not_stand_still() -> None:
    online = nn.Linear(2, 2, bias=False).bfloat16()
    online.weight.data.fill_(1.0)
    slow = SlowCopy(online, decay=0.995)
    online.weight.data.fill_(1.25)
    for _ in range(400):
        slow.update_parameters(online)
    torch.testing.assert_close(slow.module.weight, torch.full((2, 2), 1.25 - 0.25 * 0.995**400))


def test_warm_up_leaves_the_start_behind_and_ends_at_the_decay() -> None:
    online = nn.Linear(3, 2)
    slow = SlowCopy(online, 0.75, warm_up=True)
    expected = slow.module.weight.clone()
    for k in range(1, 61):  # 27 / 36 is 0.75
        moved(online, k)
        slow.update_parameters(online)
        decay = min(0.75, k / (k + 9))
        expected = decay * expected + (1 - decay) * online.weight.detach()
    torch.testing.assert_close(slow.module.weight, expected)
    frozen = SlowCopy(online, 1, warm_up=True)
    start = frozen.module.weight.clone()
    moved(online, 99)
    frozen.update_parameters(online)
    assert torch.equal(frozen.module.weight, start)


def test_what_is_not_trained_is_copied_to_the_bit() -> None:
    online = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    online[0].requires_grad_(False)
    slow = SlowCopy(online, 0.995)
    for seed in range(5):
        moved(online[1], seed)
        slow.train().update_parameters(online)
    assert torch.equal(slow.module[0].weight, online[0].weight)
    assert not torch.equal(slow.module[1].weight, online[1].weight)
    assert not slow.module.training


def test_a_slow_copy_goes_through_safetensors_and_goes_on_the_same(tmp_path: Path) -> None:
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slow = SlowCopy(online, 0.99, warm_up=True)
    for seed in range(3):
        moved(online, seed)
        slow.update_parameters(online)
    save_file(slow.state_dict(), tmp_path / "slow.safetensors")
    again = SlowCopy(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 0.99, warm_up=True)
    again.load_state_dict(load_file(tmp_path / "slow.safetensors"))
    moved(online, 9)
    for each in (slow, again):
        each.update_parameters(online)
    for name, value in slow.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_decay_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decay 1.01: in \[0, 1\]"):
        SlowCopy(nn.Linear(1, 1), 1.01)


def test_what_is_frozen_is_left_as_it_was_copied() -> None:
    """Also where a frozen model is brought to another type meanwhile: nothing is rounded, and nothing of it is read."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].requires_grad_(False)
    copy, before = SlowCopy(module, 0.5), module[0].weight.clone()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(1.0)
    copy.update_parameters(module)
    torch.testing.assert_close(copy.module[0].weight, before, rtol=0, atol=0)
    torch.testing.assert_close(copy.module[1].weight, module[1].weight - 0.5)
