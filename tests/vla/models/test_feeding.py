"""One trunk with latents and the future as outputs that feed the action: who learns from whom."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from corpora.mixture.embodiments import LATENT
from tests.builders.policies import batch_of, tiny_bc
from vla.models.config import PolicyConfig
from vla.policy import Policy, PolicyLoss


def fed() -> Policy:
    return tiny_bc(feeding=True, future_tokens=4)


def moved(policy: Policy, loss: torch.Tensor) -> set[str]:
    """Parts of the policy that the loss has gradients for."""
    policy.zero_grad()
    loss.backward()
    return {
        name.split(".")[0]
        for name, parameter in policy.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


def loss_of(policy: Policy) -> PolicyLoss:
    """A latent's sample, then a robot's."""
    return policy.loss(batch_of(policy.config, [policy.embodiment_id(name) for name in (LATENT, "new_embodiment")]))


def test_each_loss_teaches_the_trunk_and_its_own_output_alone() -> None:
    policy = fed()
    trunk = {"convolutions", "instruction"}
    assert moved(policy, loss_of(policy).action_loss[0]) == {*trunk, "latent"}
    assert moved(policy, loss_of(policy).action_loss[1]) == {*trunk, "head"}
    states = loss_of(policy).future_states
    assert states is not None and states.shape == (2, 1, 4, policy.future_width)
    assert moved(policy, states.sum()) == {*trunk, "future"}


@pytest.mark.parametrize("output", ["latent", "future"])
def test_the_action_is_read_from_latents_and_the_future(output: str) -> None:
    policy = fed()
    before = loss_of(policy).action_loss
    with torch.no_grad():
        getattr(policy, output)[-1].bias += 1.0
    after = loss_of(policy).action_loss
    assert not torch.isclose(before[1], after[1])
    assert torch.isclose(before[0], after[0]) == (output == "future")  # a latent is the latents' output itself


def test_a_policy_without_it_is_as_it_was() -> None:
    plain = tiny_bc()
    assert {name.split(".")[0] for name, _ in plain.named_parameters()} == {"convolutions", "instruction", "head"}
    assert plain.future_tokens == 0 and loss_of(plain).future_states is None
    with pytest.raises(ValueError, match="feeding with head 'flow'"):
        dataclasses.replace(PolicyConfig(), feeding=True)


def test_its_convolutions_are_what_flares_target_is_copied_from() -> None:
    policy = fed()
    images = batch_of(policy.config, [0, 1])["images"][:, 0, 0]
    assert policy.frame_encoder is not None
    grid = policy.frame_encoder(images)
    assert grid.shape == (2, 4, 64)  # 32 pixels, of which 27 are seen, halved four times
    module = policy.get_submodule("convolutions")
    whole = module[9](module[8](grid.transpose(1, 2).unflatten(2, (2, 2))))
    seen = policy.encode(images[:, None, None], torch.ones(2, 1, 1, dtype=torch.bool), ["", ""]).features[:, 0, :256]
    torch.testing.assert_close(torch.relu(whole), seen)
