"""Embodiments: their layers against loops over samples, mixed batches, where gradients go, new robots."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from corpora.mixture.embodiments import SLOTS
from vla.models.dit import sinusoid
from vla.models.dual_system import DualSystemPolicy
from vla.models.embodiment_layers import EmbodimentActionEncoder, EmbodimentLinear, EmbodimentMLP
from vla.policy import Policy
from vla.recipes import DEBUG

IDS_OF_A_BATCH = [[2, 0, 2, 1, 0], [1, 1, 1, 1, 1], [3, 2, 1, 0, 3], [2]]


def shaken(module: torch.nn.Module) -> None:
    """Biases start at 0, which would hide whose bias is added."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("ids", IDS_OF_A_BATCH)
def test_a_layer_of_embodiments_is_a_loop_over_samples(ids: list[int]) -> None:
    layer = EmbodimentLinear(4, 3, 6)
    shaken(layer)
    x = torch.randn(len(ids), 5, 3)
    found = layer(x, torch.tensor(ids))
    for b, number in enumerate(ids):
        for row in range(5):
            for out in range(6):
                slow = layer.bias[number, out].item()
                slow += sum(x[b, row, k].item() * layer.weight[number, k, out].item() for k in range(3))
                assert found[b, row, out].item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("ids", IDS_OF_A_BATCH)
def test_the_mlps_of_a_mixed_batch_are_those_of_its_samples(ids: list[int]) -> None:
    mlp, encoder = EmbodimentMLP(4, 3, 8, 6), EmbodimentActionEncoder(4, 3, 6)
    shaken(mlp)
    shaken(encoder)
    x, time = torch.randn(len(ids), 5, 3), torch.arange(len(ids)) * 211
    together = mlp(x, torch.tensor(ids)), encoder(x, time, torch.tensor(ids))
    for b, number in enumerate(ids):

        def linear(layer: EmbodimentLinear, values: Tensor, number: int = number) -> Tensor:
            return values @ layer.weight[number] + layer.bias[number]

        slow = linear(mlp.layer2, F.relu(linear(mlp.layer1, x[b])))
        torch.testing.assert_close(together[0][b], slow, atol=1e-4, rtol=1e-5)
        tau = sinusoid(time[b], 6).expand(5, 6)
        inner = linear(encoder.layer2, torch.cat([linear(encoder.layer1, x[b]), tau], -1))
        slow = linear(encoder.layer3, inner * torch.sigmoid(inner))
        torch.testing.assert_close(together[1][b], slow, atol=1e-4, rtol=1e-5)


def test_the_sinusoid_is_sine_then_cosine_of_geometric_frequencies() -> None:
    found = sinusoid(torch.tensor([0, 7]), 8)
    for row, position in enumerate((0, 7)):
        angles = [position * 10_000 ** (-k / 4) for k in range(4)]
        assert found[row].tolist() == pytest.approx(
            [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles], abs=1e-6
        )


@pytest.mark.parametrize("ids", [[2, 0, 2], [1, 1, 1]])
def test_gradients_reach_the_embodiments_of_the_batch_alone(ids: list[int]) -> None:
    mlp = EmbodimentMLP(4, 3, 8, 6)
    shaken(mlp)
    mlp(torch.randn(3, 5, 3), torch.tensor(ids)).pow(2).sum().backward()
    for parameter in mlp.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.nonzero().flatten().tolist() == sorted(set(ids))


def robots(slots: int = 32) -> DualSystemPolicy:
    policy = DualSystemPolicy(dataclasses.replace(DEBUG, slots=slots))
    shaken(policy.embodiment_layers)
    return policy


def weights_of(policy: DualSystemPolicy, name: str) -> list[Tensor]:
    number = policy.embodiment_id(name)
    return [parameter[number].detach().clone() for parameter in policy.embodiment_layers.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_names_are_the_published_ones_and_there_is_room() -> None:
    policy = robots()
    assert policy.slots == list(SLOTS) and SLOTS[0] == "latent"
    assert {"gr1", "oxe_droid", "agibot_genie1", "unitree_g1", "digit", "aloha", "franka", "metaworld"} < set(SLOTS)
    assert [policy.embodiment_id(name) for name in SLOTS] == list(range(len(SLOTS)))
    assert all(len(parameter) == 32 for parameter in policy.embodiment_layers.parameters())


def test_a_new_robot_takes_free_weights_and_changes_nobody_elses() -> None:
    policy = robots()
    before = [parameter.detach().clone() for parameter in policy.embodiment_layers.parameters()]
    number = policy.add_embodiment("so101")
    assert number == len(SLOTS) == policy.embodiment_id("so101")
    assert policy.add_embodiment("so101") == number  # once more is the same
    assert same(before, list(policy.embodiment_layers.parameters()))


def test_a_new_robot_starts_as_the_one_it_is_like_and_goes_its_own_way() -> None:
    policy = robots()
    layers, franka = policy.embodiment_layers, policy.embodiment_id("franka")
    number = policy.add_embodiment("so101", start_from="franka")
    assert same(weights_of(policy, "so101"), weights_of(policy, "franka"))
    state, ids = torch.randn(2, 1, DEBUG.max_state_dim), torch.tensor([franka, number])
    state[1] = state[0]
    alike = layers.state(state, ids)
    assert torch.equal(alike[0], alike[1])
    before, other = weights_of(policy, "franka"), weights_of(policy, "aloha")
    assert not torch.equal(before[0], other[0])
    layers.state(state[1:], ids[1:]).sum().backward()
    with torch.no_grad():
        for parameter in layers.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    assert same(before, weights_of(policy, "franka"))
    assert not torch.equal(weights_of(policy, "so101")[0], before[0])


def test_a_known_robot_keeps_its_weights_unless_a_start_is_named() -> None:
    policy = robots()
    before, franka = weights_of(policy, "gr1"), weights_of(policy, "franka")
    assert policy.add_embodiment("gr1") == policy.embodiment_id("gr1")
    assert same(before, weights_of(policy, "gr1"))
    policy.add_embodiment("gr1", start_from="franka")
    assert same(franka, weights_of(policy, "gr1"))


def test_errors_name_the_embodiment_and_what_there_is() -> None:
    policy: Policy = robots(slots=len(SLOTS) + 1)
    with pytest.raises(ValueError, match=r"'panda'.*gr1, .*franka.*--start-from"):
        policy.embodiment_id("panda")
    with pytest.raises(ValueError, match="'panda'"):
        policy.add_embodiment("so101", start_from="panda")
    assert policy.slots == list(SLOTS)  # a start that there is not takes no place
    policy.add_embodiment("so101")
    with pytest.raises(ValueError, match=f"all {len(SLOTS) + 1} places are taken"):
        policy.add_embodiment("h1")
    with pytest.raises(ValueError, match=f"slots 3: at least {len(SLOTS)}"):
        robots(slots=3)
