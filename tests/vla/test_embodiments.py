"""Embodiments: slot layers against loops over samples, mixed slots in a batch, where gradients go, new robots."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vla.models.config import CAPACITY, SLOTS
from vla.models.dit import sinusoid
from vla.models.embodiment_layers import Embodiments, SlotActionEncoder, SlotLinear, SlotMLP

SLOTS_OF_A_BATCH = [[2, 0, 2, 1, 0], [1, 1, 1, 1, 1], [3, 2, 1, 0, 3], [2]]


def shaken(module: torch.nn.Module) -> None:
    """Biases start at 0, which would hide whose bias is added."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("slots", SLOTS_OF_A_BATCH)
def test_a_slot_layer_is_a_loop_over_samples(slots: list[int]) -> None:
    layer = SlotLinear(4, 3, 6)
    shaken(layer)
    x = torch.randn(len(slots), 5, 3)
    found = layer(x, torch.tensor(slots))
    for b, slot in enumerate(slots):
        for row in range(5):
            for out in range(6):
                slow = layer.bias[slot, out].item()
                slow += sum(x[b, row, k].item() * layer.weight[slot, k, out].item() for k in range(3))
                assert found[b, row, out].item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("slots", SLOTS_OF_A_BATCH)
def test_the_mlps_of_a_mixed_batch_are_those_of_its_samples(slots: list[int]) -> None:
    mlp, encoder = SlotMLP(4, 3, 8, 6), SlotActionEncoder(4, 3, 6)
    shaken(mlp)
    shaken(encoder)
    x, time = torch.randn(len(slots), 5, 3), torch.arange(len(slots)) * 211
    together = mlp(x, torch.tensor(slots)), encoder(x, time, torch.tensor(slots))
    for b, slot in enumerate(slots):

        def linear(layer: SlotLinear, values: Tensor, slot: int = slot) -> Tensor:
            return values @ layer.weight[slot] + layer.bias[slot]

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


@pytest.mark.parametrize("slots", [[2, 0, 2], [1, 1, 1]])
def test_gradients_reach_the_slots_of_the_batch_alone(slots: list[int]) -> None:
    mlp = SlotMLP(4, 3, 8, 6)
    shaken(mlp)
    mlp(torch.randn(3, 5, 3), torch.tensor(slots)).pow(2).sum().backward()
    for parameter in mlp.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.nonzero().flatten().tolist() == sorted(set(slots))


def embodiments(**options) -> Embodiments:
    sizes = {"state_dim": 4, "action_dim": 3, "hidden": 8, "width": 6, "output_dim": 5}
    made = Embodiments(**{**sizes, **options})
    shaken(made)
    return made


def of_slot(made: Embodiments, number: int) -> list[Tensor]:
    return [parameter[number].detach().clone() for parameter in made.parameters()]


def test_the_names_are_the_published_ones_and_there_is_room() -> None:
    made = embodiments()
    assert made.names == list(SLOTS) and SLOTS[0] == "latent"
    assert {"gr1", "oxe_droid", "agibot_genie1", "unitree_g1", "digit", "aloha", "franka", "metaworld"} < set(SLOTS)
    assert [made.slot(name) for name in SLOTS] == list(range(len(SLOTS)))
    assert all(len(parameter) == CAPACITY for parameter in made.parameters())


def test_a_new_robot_takes_a_free_slot_and_changes_nobody_elses() -> None:
    made = embodiments()
    before = [parameter.detach().clone() for parameter in made.parameters()]
    number = made.add("so101")
    assert number == len(SLOTS) == made.slot("so101")
    assert made.add("so101") == number  # once more is the same
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


def test_a_new_robot_starts_as_the_one_it_is_like_and_goes_its_own_way() -> None:
    made = embodiments()
    franka = made.slot("franka")
    number = made.add("so101", start_from="franka")
    assert all(torch.equal(a, b) for a, b in zip(of_slot(made, number), of_slot(made, franka), strict=True))
    state, slot = torch.randn(2, 1, 4), torch.tensor([franka, number])
    state[1] = state[0]
    same = made.state(state, slot)
    assert torch.equal(same[0], same[1])
    before, other = of_slot(made, franka), of_slot(made, made.slot("aloha"))
    assert not torch.equal(before[0], other[0])
    made.state(state[1:], slot[1:]).sum().backward()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    assert all(torch.equal(a, b) for a, b in zip(before, of_slot(made, franka), strict=True))
    assert not torch.equal(of_slot(made, number)[0], before[0])


def test_a_known_robot_keeps_its_weights_unless_a_start_is_named() -> None:
    made = embodiments()
    before, franka = of_slot(made, made.slot("gr1")), of_slot(made, made.slot("franka"))
    assert made.add("gr1") == made.slot("gr1")
    assert all(torch.equal(a, b) for a, b in zip(before, of_slot(made, made.slot("gr1")), strict=True))
    made.add("gr1", start_from="franka")
    assert all(torch.equal(a, b) for a, b in zip(franka, of_slot(made, made.slot("gr1")), strict=True))


def test_errors_name_the_slot_and_what_there_is() -> None:
    made = embodiments(names=("gr1", "franka"), capacity=3)
    with pytest.raises(ValueError, match=r"'panda'.*gr1, franka.*--start-from"):
        made.slot("panda")
    with pytest.raises(ValueError, match="'panda'"):
        made.add("aloha", start_from="panda")
    made.add("so101")
    with pytest.raises(ValueError, match="all 3 slots are taken"):
        made.add("h1")
    with pytest.raises(ValueError, match="at most 2 different names"):
        embodiments(names=("gr1", "gr1"), capacity=2)


def test_a_start_that_there_is_not_takes_no_slot() -> None:
    made = embodiments()
    with pytest.raises(ValueError, match="'panda'"):
        made.add("so101", start_from="panda")
    assert made.names == list(SLOTS)
