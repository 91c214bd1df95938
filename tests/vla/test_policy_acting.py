"""Acting: what it looks at, whose noise it takes, and robots it does not know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.builders.policies import HORIZON, batch_of, here, keys, some_images, teach, tiny_policy
from vla.batch import PolicyBatch, pad_last
from vla.noise import NoiseKey
from vla.policy import ContextTokens, Policy
from vla.recipes import DEBUG


def test_a_hidden_state_is_not_seen_and_a_shown_one_is() -> None:
    policy = tiny_policy(state_dropout=0.5)  # else a robot that has a state must give it
    teach(policy, "gr1", 4, 3)
    images = some_images(1)
    states = [None, np.full((1, 4), 2.0), np.full((1, 4), -5.0)]
    none, first, second = (
        policy.act_batch(images, here(images), ["open"], state, "gr1", noise=keys(1)) for state in states
    )
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(none - first).max() > 1e-3
    batch = batch_of(policy.config, [1])
    batch["state_mask"][:] = False
    torch.manual_seed(0)
    expected = policy.loss(batch).action_loss
    batch["state"][:] = torch.nan
    torch.manual_seed(0)
    assert torch.equal(policy.loss(batch).action_loss, expected)


def test_the_instruction_matters_and_an_empty_one_is_an_instruction_too() -> None:
    policy = tiny_policy()
    teach(policy, "gr1", 4, 3)
    images = some_images(1).expand(3, -1, -1, -1, -1, -1)
    texts = ["open the drawer", "close the drawer", ""]
    state = np.ones((3, 4))
    alone = [policy.act_batch(images[:1], here(images[:1]), [text], state[:1], "gr1", noise=keys(1)) for text in texts]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert np.abs(alone[0] - alone[2]).max() > 1e-3
    assert np.isfinite(alone[2]).all()
    capitals = policy.act_batch(images[:1], here(images[:1]), ["Open the DRAWER!"], state[:1], "gr1", noise=keys(1))
    assert np.array_equal(capitals, alone[0])


def test_several_cameras_and_a_history_each_matter_and_missing_ones_are_not_seen() -> None:
    policy = tiny_policy(history_s=(0.5, 0.0))
    teach(policy, "gr1", 4, 3)
    images = some_images(1, cameras=2, history=2)

    def act(images: Tensor, mask: Tensor) -> np.ndarray:
        return policy.act_batch(images, mask, ["open"], np.ones((1, 4)), "gr1", noise=keys(1))

    everything = act(images, here(images))
    for camera in range(2):
        for frame in range(2):
            mask = here(images)
            mask[0, camera, frame] = False
            without = act(images, mask)
            assert np.abs(without - everything).max() > 1e-4
            rubbish = images.clone()
            rubbish[0, camera, frame] = 255 - rubbish[0, camera, frame]
            assert np.abs(act(rubbish, here(images)) - everything).max() > 1e-4
            np.testing.assert_allclose(act(rubbish, mask), without, atol=1e-5)
    assert np.abs(act(images.flip(1), here(images)) - everything).max() > 1e-4  # cameras have places
    with pytest.raises(ValueError, match="5 cameras and 2 frames"):
        act(some_images(1, cameras=5, history=2), torch.ones(1, 5, 2, dtype=torch.bool))


def test_a_sample_s_noise_is_that_of_its_key_alone_whatever_else_is_in_the_batch() -> None:
    policy = tiny_policy()
    teach(policy, "gr1", 4, 3)
    images, state = some_images(4), np.random.default_rng(0).normal(size=(4, 4))
    whose = [NoiseKey(7, ("reach", start, "go"), chunk) for start, chunk in ((0, 0), (0, 1), (1, 0), (2, 5))]
    assert whose[0].next() == whose[1] and NoiseKey(7, ("reach", 0), 0) != whose[0]

    def act(which: list[int]) -> np.ndarray:
        chosen = [whose[row] for row in which]
        return policy.act_batch(
            images[which], here(images[which]), ["go"] * len(which), state[which], "gr1", noise=chosen
        )

    together = act([0, 1, 2, 3])
    for which in ([2], [3, 1], [0, 2, 1]):
        np.testing.assert_allclose(act(which), together[which], atol=1e-4)
    draws = torch.stack([key.draw(3) for key in (*whose, NoiseKey(8, ("reach", 0, "go")))])
    assert len(draws.flatten().unique()) == 15 and torch.equal(draws[0], whose[0].draw(3))
    with pytest.raises(ValueError, match="1 noise keys for 4 samples: give one for each"):
        policy.act_batch(images, here(images), ["go"] * 4, state, "gr1", noise=whose[:1])


def test_acting_repeats_by_its_keys() -> None:
    policy = tiny_policy()
    teach(policy, "gr1", 4, 3)
    images = some_images(2)

    def act(seed: int) -> np.ndarray:
        return policy.act_batch(images, here(images), ["a", "b"], np.ones((2, 4)), "gr1", noise=keys(2, seed))

    assert np.array_equal(act(3), act(3))
    assert not np.array_equal(act(3), act(4))
    tokens = policy.encode(images, here(images), ["a", "b"])
    again = policy.act_on(tokens, np.ones((2, 4)), "gr1", noise=keys(2, 3))
    assert np.array_equal(again, act(3))


class Oracle(Policy):
    """Answers with encoded actions that were put into it; the state it was given is kept."""

    def __init__(self, encoded: Tensor) -> None:
        super().__init__(DEBUG)
        self.encoded = torch.nn.Parameter(encoded)

    def loss(self, batch: PolicyBatch):
        raise NotImplementedError

    def encode(self, images, image_mask, instruction) -> ContextTokens:
        return ContextTokens(torch.zeros(len(images), 1, 1), torch.ones(len(images), 1).bool(), here(images)[:, 0])

    def sample(self, tokens, state, state_mask, embodiment_id, action_dim, noise=None) -> Tensor:
        self.given = state, state_mask, embodiment_id
        return pad_last(self.encoded.detach(), self.config.max_action_dim)[0]

    def embodiment_id(self, name: str) -> int:
        return 7

    def add_embodiment(self, name: str, *, start_from: str | None = None) -> int:
        return 7


@pytest.mark.parametrize("representation", ["absolute", "delta", "relative"])
def test_acting_undoes_what_the_codec_does(representation: str) -> None:
    rng = np.random.default_rng(1)
    state, chunk = rng.normal(2, 3, (2, 3)), rng.normal(2, 3, (2, HORIZON, 3)).astype(np.float32)
    policy = Oracle(torch.zeros(2, HORIZON, 3))
    facts = teach(policy, "gr1", 3, 3, representation=representation)
    policy.encoded.data = torch.from_numpy(facts.action_space.encode_action(state, chunk))
    found = policy.act_batch(some_images(2), here(some_images(2)), ["", ""], state, "gr1")
    np.testing.assert_allclose(found, chunk, atol=1e-4)
    assert found.dtype == np.float32
    given, there, ids = policy.given
    np.testing.assert_allclose(given[:, :3].numpy(), facts.action_space.encode_state(state), atol=1e-6)
    assert there[:, :3].all() and not there[:, 3:].any() and ids.tolist() == [7, 7]
    if representation != "absolute":
        with pytest.raises(ValueError, match="state"):
            policy.act_batch(some_images(2), here(some_images(2)), ["", ""], None, "gr1")


def test_a_robot_that_is_not_known_is_refused_with_the_remedy() -> None:
    policy = tiny_policy()
    teach(policy, "gr1", 4, 3)
    with pytest.raises(
        ValueError, match=r"'franka': this policy was trained on gr1; .*giza ground --embodiment franka"
    ):
        policy.act_batch(some_images(1), here(some_images(1)), [""], None, "franka")
