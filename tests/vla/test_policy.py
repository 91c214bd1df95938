"""The policy's loss: padding that changes nothing, robots of different widths in one batch, what may be missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

import vla.models.dual_system
from tests.builders.policies import HORIZON, batch_of, here, keys, some_images, teach, tiny_bc, tiny_policy
from vla.batch import PolicyBatch, check_batch, pad_last
from vla.models.config import FlowConfig
from vla.models.dual_system import DualSystemPolicy

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(batch: PolicyBatch, which: list[int]) -> PolicyBatch:
    made = {name: value[which] for name, value in batch.items() if isinstance(value, Tensor)}
    return PolicyBatch(**made, instruction=[batch["instruction"][row] for row in which])  # type: ignore[typeddict-item]


@contextmanager
def noise_of_rows(monkeypatch: pytest.MonkeyPatch, which: list[int], width: int) -> Iterator[None]:
    """Time and noise that depend on a sample and a dimension alone, whatever batch and padding they come in."""
    noise = torch.randn(16, HORIZON, 64, generator=generator(1))
    times = torch.rand(16, generator=generator(2))
    with monkeypatch.context() as patch:
        patch.setattr(
            vla.models.dual_system, "sample_start", lambda shape, config: (noise[which][..., :width], times[which])
        )
        yield


def same_weights(narrow: DualSystemPolicy, wide: DualSystemPolicy) -> None:
    """Gives `wide` the weights of `narrow`; its further inputs and outputs keep weights of their own."""
    theirs, mine = narrow.state_dict(), wide.state_dict()
    for name, value in theirs.items():
        place = tuple(slice(0, size) for size in value.shape)
        mine[name][place] = value
    wide.load_state_dict(mine)


def test_padded_widths_change_no_loss_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tiny_policy(max_state_dim=6, max_action_dim=5)
    wide = tiny_policy(seed=7, max_state_dim=16, max_action_dim=12)
    same_weights(narrow, wide)
    slots, ds, da = [1, 3, 1], [6, 4, 0], [5, 3, 2]
    small = batch_of(narrow.config, slots, state_dims=ds, action_dims=da)
    small["action_mask"][1, 5:] = False  # past the end of the episode
    large = dict(small)
    for name, width in (("state", 16), ("state_mask", 16), ("action", 12), ("action_mask", 12)):
        large[name], _ = pad_last(small[name], width)  # type: ignore[literal-required]
    large["state"][~large["state_mask"]] = 1e6  # what stands in the padding is nobody's business
    large["action"].masked_fill_(~large["action_mask"].any(1, keepdim=True), torch.nan)
    with noise_of_rows(monkeypatch, [0, 1, 2], 5):
        first = narrow.loss(small)
    with noise_of_rows(monkeypatch, [0, 1, 2], 12):
        second = wide.loss(large)  # type: ignore[arg-type]
    torch.testing.assert_close(second.action_loss, first.action_loss, **CLOSE)
    torch.testing.assert_close(second.future_states, first.future_states, **CLOSE)
    first.action_loss.sum().backward()
    second.action_loss.sum().backward()
    gradient = wide.embodiment_layers.action.layer1.weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient[:, 5:].abs().max() == 0
    torch.testing.assert_close(gradient[:, :5], narrow.embodiment_layers.action.layer1.weight.grad, **CLOSE)


def test_padded_widths_change_no_action() -> None:
    narrow = tiny_policy(max_state_dim=6, max_action_dim=5)
    wide = tiny_policy(seed=7, max_state_dim=16, max_action_dim=5)
    same_weights(narrow, wide)
    images, state = some_images(3), np.random.default_rng(0).normal(2, 3, (3, 6))
    acted = []
    for policy in (narrow, wide):
        teach(policy, "gr1", 6, 5)
        acted.append(policy.act_batch(images, here(images), ["open"] * 3, state, "gr1", noise=keys(3)))
    np.testing.assert_allclose(acted[1], acted[0], atol=1e-5)


def test_wider_actions_change_no_action() -> None:
    narrow, wide = tiny_policy(max_action_dim=5), tiny_policy(seed=7, max_action_dim=12)
    same_weights(narrow, wide)
    tokens = narrow.encode(some_images(2), here(some_images(2)), ["a", "b"])
    state, there = torch.randn(2, 16, generator=generator()), torch.ones(2, 16, dtype=torch.bool)
    noise = torch.randn(2, HORIZON, 12, generator=generator())
    found = []
    for policy, width in ((narrow, 5), (wide, 12)):
        dims = (torch.arange(width) < 5).expand(2, width)
        velocity, _ = policy.velocity(
            tokens, noise[..., :width], dims, torch.tensor([0.2, 0.7]), state, there, torch.tensor([1, 2])
        )
        found.append(velocity[..., :5])
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_samples_of_different_robots_in_one_batch_are_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    batch = batch_of(policy.config, [2, 5, 2, 9], state_dims=[3, 16, 7, 0], action_dims=[2, 16, 4, 1], cameras=2)
    batch["image_mask"][2, 1] = False
    batch["instruction"][1] = "turn the faucet the other way round, please"
    batch["instruction"][3] = ""
    batch["action_mask"][0, 3:] = False
    with noise_of_rows(monkeypatch, [0, 1, 2, 3], 16):
        together = policy.loss(batch)
    for row in range(4):
        with noise_of_rows(monkeypatch, [row], 16):
            alone = policy.loss(rows(batch, [row]))
        torch.testing.assert_close(together.action_loss[row : row + 1], alone.action_loss, **CLOSE)
        torch.testing.assert_close(together.future_states[row : row + 1], alone.future_states, **CLOSE)
    assert together.has_action.all() and together.action_loss.min() > 0


def test_the_loss_is_the_squared_error_of_the_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    batch = batch_of(policy.config, [2, 5], state_dims=[3, 16], action_dims=[2, 16])
    batch["action_mask"][0, 3:] = False
    noise = torch.randn(16, HORIZON, 64, generator=generator(1))[:2, :, :16]
    time = torch.rand(16, generator=generator(2))[:2]
    with noise_of_rows(monkeypatch, [0, 1], 16):
        found = policy.loss(batch).action_loss
    x = (1 - time)[:, None, None] * noise + time[:, None, None] * batch["action"]
    tokens = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
    args = (batch["action_mask"].any(1), time, batch["state"], batch["state_mask"], batch["embodiment"])
    predicted, _ = policy.velocity(tokens, x, *args)
    for row in range(2):
        errors = [
            (predicted[row, h, d] - batch["action"][row, h, d] + noise[row, h, d]).item() ** 2
            for h in range(HORIZON)
            for d in range(16)
            if batch["action_mask"][row, h, d]
        ]
        assert found[row].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_draws_of_one_sample_share_their_tokens_and_average_their_losses() -> None:
    policy = tiny_policy(flow=FlowConfig(draws=3)).train()
    policy.backbone.eval()  # no crops
    batch = batch_of(policy.config, [2, 5])
    torch.manual_seed(0)
    three = policy.loss(batch)
    single = tiny_policy(flow=FlowConfig(draws=1)).train()
    single.backbone.eval()
    torch.manual_seed(0)
    six = single.loss(rows(batch, [0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(three.action_loss, six.action_loss.view(2, 3).mean(1), **CLOSE)
    assert three.future_states is not None and three.future_states.shape[:3] == (2, 3, 4)
    torch.testing.assert_close(three.future_states.flatten(0, 1), six.future_states[:, 0], **CLOSE)


def test_a_draw_of_the_middle_is_regression_on_the_chunk() -> None:
    """With every draw in the middle the loss is that of the velocity at 0, which sampling in one step answers by."""
    policy = tiny_policy(flow=FlowConfig(middle=1.0, steps=1, temperature=0.0)).train()
    policy.backbone.eval()
    batch = batch_of(policy.config, [2, 5])
    loss = policy.loss(batch).action_loss
    tokens = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
    width = policy.config.max_action_dim
    answer = policy.sample(tokens, batch["state"], batch["state_mask"], batch["embodiment"], width)
    mask = batch["action_mask"]
    error = ((answer - batch["action"]) ** 2 * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    assert mask.flatten(1).any(1).all()
    torch.testing.assert_close(loss, error, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lacking", ["action", "state", "instruction", "image", "all"])
def test_what_is_missing_leaves_finite_losses_and_gradients(lacking: str) -> None:
    policy = tiny_policy().train()
    batch = batch_of(policy.config, [2, 5, 1])
    for name in ("action", "state", "image"):
        if lacking in (name, "all"):
            batch[f"{name}_mask"][:] = False  # type: ignore[literal-required]
    if lacking in ("instruction", "all"):
        batch["instruction"] = ["", "", ""]
    output = policy.loss(batch)
    assert output.future_states is not None
    (output.action_loss.sum() + output.future_states.pow(2).mean()).backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert output.future_states.isfinite().all() and output.tokens.features.isfinite().all()
    if lacking in ("action", "all"):
        assert not output.has_action.any() and output.action_loss.abs().max() == 0
    else:
        assert output.action_loss.min() > 0


def test_state_dropout_hides_that_share_of_states_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(state_dropout=0.4)
    batch = batch_of(policy.config, [1] * 12)
    shown: list[float] = []
    real = policy.velocity

    def watched(tokens, x, mask, time, state, state_mask, embodiment_id):
        shown.append(state_mask.any(1).float().mean().item())
        return real(tokens, x, mask, time, state, state_mask, embodiment_id)

    monkeypatch.setattr(policy, "velocity", watched)
    for mode in (True, False):
        policy.train(mode)
        for _ in range(8):
            policy.loss(batch)
    assert np.mean(shown[:8]) == pytest.approx(0.6, abs=0.15)
    assert set(shown[8:]) == {1.0}


@pytest.mark.parametrize("kind", [tiny_policy, tiny_bc])
def test_a_batch_that_does_not_fit_is_refused_with_its_shapes(kind) -> None:
    policy = kind()
    good = batch_of(policy.config, [0, 0])
    policy.loss(good)
    wrong = {
        "state": (good["state"][:, :5], r"state \[2, 5\]: must be \[2, 16\]"),
        "action": (good["action"][:, :3], r"action \[2, 3, 16\]: must be \[2, 8, 16\]"),
        "instruction": (["one"], "1 instructions for 2 samples"),
        "images": (good["images"].float(), r"images torch.float32.*uint8 \[B, V, T, 3, S, S\]"),
        "embodiment": (good["embodiment"][:1], r"embodiment \[1\]: must be \[2\]"),
    }
    for name, (value, said) in wrong.items():
        with pytest.raises(ValueError, match=said):
            policy.loss({**good, name: value})
    with pytest.raises(ValueError, match="20 dimensions: more than the policy's 16; .*wider"):
        pad_last(torch.zeros(2, 20), 16)
    check_batch(good, horizon=8, state_dim=16, action_dim=16)


def test_the_baseline_regresses_what_is_known_and_tells_instructions_apart() -> None:
    policy = tiny_bc()
    batch = batch_of(policy.config, [0, 0], state_dims=[4, 4], action_dims=[3, 3])
    batch["action_mask"][0, 2:] = False
    batch["action_mask"][1] = False
    predicted = policy.sample(
        policy.encode(batch["images"], batch["image_mask"], batch["instruction"]),
        batch["state"],
        batch["state_mask"],
        batch["embodiment"],
        3,
    )
    output = policy.loss(batch)
    slow = (predicted[0, :2, :3] - batch["action"][0, :2, :3]).pow(2).mean()
    torch.testing.assert_close(output.action_loss, torch.stack([slow, torch.tensor(0.0)]))
    assert output.has_action.tolist() == [True, False]
    teach(policy, "gr1", 4, 3)
    images = some_images(1)
    acts = [
        policy.act_batch(images, here(images), [text], np.ones((1, 4)), "gr1") for text in ("open", "close", "open")
    ]
    assert np.array_equal(acts[0], acts[2]) and np.abs(acts[0] - acts[1]).max() > 1e-4
    with pytest.raises(ValueError, match="one camera and one frame"):
        policy.loss(batch_of(dataclasses.replace(policy.config), [0], cameras=2))
