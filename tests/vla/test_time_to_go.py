"""An episode's end is in the loss alone: where only time-to-go decides, training is told no more than acting is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.builders.policies import batch_of, teach, tiny_bc, tiny_policy
from vla.batch import PolicyBatch
from vla.models.config import FlowConfig
from vla.policy import Policy
from vla.recipes import DEBUG

END = 2
"""Steps that are left of an episode that ends."""


UNCROPPED = dataclasses.replace(DEBUG.small, crop=1.0)


def flow_head() -> Policy:
    return tiny_policy(flow=FlowConfig(middle=1.0, steps=1, temperature=0.0), small=UNCROPPED)


def regression_head() -> Policy:
    return tiny_bc(small=UNCROPPED)


def ends_or_goes_on(policy: Policy) -> PolicyBatch:
    """Two samples that look alike: +1 is done where the episode ends within the chunk, -1 where it goes on."""
    batch = batch_of(policy.config, [1, 1], state_dims=[4, 4], action_dims=[1, 1])
    for name in ("images", "state"):
        batch[name][1] = batch[name][0]  # type: ignore[literal-required]
    batch["instruction"] = ["stop"] * 2
    batch["action"][:, :, 0] = torch.tensor([1.0, -1.0])[:, None]
    batch["action_mask"][0, END:] = False
    return batch


@pytest.mark.parametrize("head", [flow_head, regression_head])
def test_training_is_not_told_when_an_episode_ends(head) -> None:
    torch.manual_seed(0)
    policy = head().train()
    teach(policy, "gr1", 4, 1)
    batch = ends_or_goes_on(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses = policy.loss(batch).action_loss
        losses.mean().backward()
        optimizer.step()
    with torch.no_grad():
        tokens = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
        robot = batch["state"], batch["state_mask"], batch["embodiment"]
        acted = policy.sample(tokens, *robot, 1)[:, :, 0]
        error = (acted - batch["action"][:, :, 0]).square()
        expected = torch.stack([error[0, :END].mean(), error[1].mean()])
        # what the loss says of a sample is what acting there will cost
        torch.testing.assert_close(policy.loss(batch).action_loss, expected, atol=0.02, rtol=0.02)
    # +1 at half of one's weight and -1 at an eighth of the other's, of equal observations: nobody is better than 0.6
    assert (acted[:, :END] - 0.6).abs().max() < 0.2 and (acted[:, END:] + 1).abs().max() < 0.2
    assert losses.mean() > 0.3
