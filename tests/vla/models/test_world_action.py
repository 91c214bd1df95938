"""The world-action head: the mask, what is missing, the cache, sampling."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.builders.policies import batch_of, here, keys, some_images, teach, tiny_bc
from tests.builders.recipes import tiny_dino
from tests.builders.world import tiny_world, tiny_world_config
from vla.batch import PolicyBatch
from vla.checkpoint import build_policy, load_policy, save_policy
from vla.models.config import FlowConfig, VisionConfig, VlmConfig
from vla.models.world_action import Block, WorldActionPolicy, WorldContext, _visible
from vla.models.world_dit import Layout

HISTORY = (0.6, 0.3, 0.0)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def slow_mask(layout: Layout) -> str:
    """Pair by pair, as REFERENCE.md tells it of DreamZero: a row of 0 and 1 for each token."""
    kinds = [("word", 0)] * layout.words
    kinds += [("image", k) for k in range(layout.moments) for _ in range(layout.picture)]
    newest = layout.moments
    kinds += [("image", newest)] * layout.picture + [("action", newest)] * layout.actions + [("state", newest)]

    def sees(one: tuple[str, int], other: tuple[str, int]) -> bool:
        if one[0] == "state":  # a state itself
            return other == one
        if other[0] == "word":  # everybody is told what to do
            return True
        if one[0] == "word":
            return False
        if other[0] == "image":  # the first frame, past and current image blocks
            return other[1] <= one[1]
        return other[1] == one[1]  # its own actions and state

    return "\n".join("".join("01"[sees(one, other)] for other in kinds) for one in kinds)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 3, 2), (3, 4, 2, 5)])
def test_the_mask_is_that_of_the_reference_pair_by_pair(sizes: tuple[int, int, int, int]) -> None:
    layout = Layout(*sizes)
    drawn = "\n".join("".join(str(int(one)) for one in row) for row in layout.mask())
    assert drawn == slow_mask(layout)


def test_the_smallest_mask_as_it_is_drawn_by_hand() -> None:
    drawn = ["".join(str(int(one)) for one in row) for row in Layout(1, 1, 2, 2).mask()]
    assert drawn == [
        "1000000",  # word
        "1100000",  # first frame
        "1110000",  # past image block
        "1111111",  # image block
        "1111111",  # its actions
        "1111111",
        "0000001",  # its state
    ]


def rows(batch: PolicyBatch, which: list[int]) -> PolicyBatch:
    made = {name: value[which] for name, value in batch.items() if isinstance(value, Tensor)}
    return PolicyBatch(**made, instruction=[batch["instruction"][row] for row in which])  # type: ignore[typeddict-item]


def losses(policy: WorldActionPolicy, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    output = policy.loss(batch)
    assert output.picture is not None
    return output.action_loss, output.picture.loss


@pytest.mark.parametrize("times", ["block", "flash"])
def test_a_sample_without_actions_trains_the_picture_and_gives_the_actions_weights_no_gradient(times: str) -> None:
    policy = tiny_world(times=times, flow=FlowConfig(draws=2, middle=0.5)).train()
    batch = batch_of(policy.config, [1, 1])
    batch["action_mask"][:] = False
    batch["state_mask"][:] = False
    batch["action"][:] = torch.nan  # whatever stands there
    action, picture = losses(policy, batch)
    assert action.abs().max() == 0 and picture.min() > 0
    (action.sum() + picture.sum()).backward()
    for name, parameter in policy.named_parameters():
        gradient = parameter.grad
        if name.startswith(("embodiment_layers.", "action_position", "action_state")):
            assert gradient is None or gradient.abs().max() == 0, name
        elif name.startswith("pictures."):
            assert gradient is None, name  # it is frozen
        else:
            assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0, name


def test_a_sample_with_actions_does_give_them_one_also_through_the_picture() -> None:
    policy = tiny_world().train()
    batch = batch_of(policy.config, [1, 1])
    _, picture = losses(policy, batch)
    picture.sum().backward()
    encoder = policy.embodiment_layers.action.layer1.weight.grad
    assert encoder is not None and encoder[1].abs().max() > 0  # an image block sees its own actions
    policy.zero_grad()
    losses(policy, batch)[0].sum().backward()
    decoder = policy.embodiment_layers.decoder.layer2.weight.grad
    assert decoder is not None and decoder[1].abs().max() > 0 and decoder[2].abs().max() == 0


def test_a_missing_future_changes_nothing_whatever_stands_in_its_place() -> None:
    policy = tiny_world(flow=FlowConfig(draws=2, middle=0.5)).train()
    batch = batch_of(policy.config, [1, 2, 1])
    batch["has_future"][1] = False
    found = []
    for filled in (0, 255):
        batch["future"][1] = filled
        policy.eval()
        action, picture = losses(policy, batch)
        assert picture[1] == 0 and (picture[[0, 2]] > 0).all() and (action > 0).all()
        found.append(action)
        (measured,) = itertools.islice(policy.measure(batch).values(), 1)
        assert measured.isnan().tolist() == [False, True, False]
    assert torch.equal(*found)


def test_without_any_future_losses_and_gradients_are_finite() -> None:
    policy = tiny_world().train()
    batch = batch_of(policy.config, [1, 2])
    batch["has_future"][:] = False
    batch["image_mask"][0] = False
    batch["instruction"][1] = ""
    action, picture = losses(policy, batch)
    assert picture.abs().max() == 0
    (action.sum() + picture.sum()).backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_cameras_and_moments_that_are_missing_are_not_seen() -> None:
    policy = tiny_world(history_s=HISTORY)
    batch = batch_of(policy.config, [1, 1], cameras=2)
    batch["image_mask"][0, 1] = False  # a camera
    batch["image_mask"][1, :, 0] = False  # before the beginning
    first = losses(policy, batch)
    batch["images"][0, 1], batch["images"][1, :, 0], batch["future"][0, 1] = 7, 9, 200
    torch.testing.assert_close(losses(policy, batch), first)


def in_one_pass(
    policy: WorldActionPolicy, batch: PolicyBatch, block: Block, dims: Tensor
) -> tuple[tuple[Tensor, Tensor], WorldContext]:
    """Velocities without a cache: the whole sequence under the whole mask; and the context that a cache would have."""
    assert policy.pictures is not None
    images, mask = batch["images"], batch["image_mask"]
    seen = policy.pictures.views(images.flatten(1, 2), False).flatten(0, 1)
    tokens = policy.pictures.encode(seen).unflatten(0, mask.shape)
    x, there, layout = policy.context_tokens(tokens, mask, batch["instruction"])
    context = policy.encode(images, mask, batch["instruction"])
    state = batch["state"], batch["state_mask"], batch["embodiment"]
    more, shown, group, times = policy._block(context, block, dims, *state)
    whole = torch.cat([torch.zeros(layout.context, dtype=torch.long), group])
    sees = _visible(layout.mask(), torch.cat([there, shown], 1))
    states, _ = policy.dit(torch.cat([x, more], 1), times, whole, sees)
    return policy._read(states[:, layout.context :], layout, batch["embodiment"]), context


def test_with_the_cache_and_without_it_the_velocities_are_the_same() -> None:
    policy = tiny_world(history_s=HISTORY)
    batch = batch_of(policy.config, [1, 2, 1], cameras=2)
    batch["image_mask"][0, 1] = False
    batch["image_mask"][1, :, 0] = False
    batch["state_mask"][2] = False
    batch["instruction"][1] = ""
    torch.manual_seed(1)
    cells = policy.encode(batch["images"], batch["image_mask"], batch["instruction"]).newest.shape
    block = Block(torch.randn(cells), torch.randn_like(batch["action"]), torch.rand(3), torch.rand(3))
    dims = batch["action_mask"].any(1)
    whole, context = in_one_pass(policy, batch, block, dims)
    cached = policy.velocities(context, block, dims, batch["state"], batch["state_mask"], batch["embodiment"])
    torch.testing.assert_close(cached, whole, **CLOSE)


@pytest.mark.parametrize(("steps", "end"), [(1, 0.2), (4, 0.2), (4, 1.0)])
def test_sampling_is_the_same_with_the_cache_and_without_it(steps: int, end: float) -> None:
    policy = tiny_world(history_s=HISTORY, picture_end=end)
    policy.sample_in(steps)
    assert policy.passes == steps
    batch = batch_of(policy.config, [1, 2])
    context = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
    width = policy.config.max_action_dim
    state = batch["state"], batch["state_mask"], batch["embodiment"]
    actions = policy.sample(context, *state, width, keys(2))
    (height, wide), cells = batch["action"].shape[1:], context.newest.shape[1:]
    drawn = torch.stack([key.draw(height * wide + cells[0] * cells[1]) for key in keys(2)])
    y, x = drawn[:, : height * wide].view(2, height, wide), drawn[:, height * wide :].view(2, *cells)
    for step in range(steps):
        time = torch.full((2,), step / steps)
        dims = torch.ones(2, wide, dtype=torch.bool)
        (seen, acted), _ = in_one_pass(policy, batch, Block(x, y, end * time, time), dims)
        x, y = x + end * seen / steps, y + acted / steps
    torch.testing.assert_close(actions, y, atol=1e-4, rtol=1e-4)


def test_passes_of_what_does_not_sample_are_refused() -> None:
    for policy, passes in ((tiny_world(), 0), (tiny_bc(), 4)):
        with pytest.raises(ValueError, match=rf"passes {passes}: at least 1, of a policy with a sampler"):
            policy.sample_in(passes)


def test_the_cache_holds_what_the_camera_saw_and_not_what_was_foretold() -> None:
    policy = tiny_world(history_s=(0.3, 0.0))
    robot = teach(policy, "gr1", 4, 3)
    images = some_images(1, history=2)
    state = np.ones((1, 4), np.float32)
    acts = []
    for shown in (images, images.flip(2)):
        acts += [policy.act_batch(shown, here(shown), ["open"], state, robot.name, noise=keys(1)) for _ in range(2)]
    assert np.array_equal(acts[0], acts[1]) and np.abs(acts[0] - acts[2]).max() > 1e-4
    assert acts[0].shape == (1, policy.config.horizon, 3)


def test_a_draw_of_the_middle_is_regression_on_picture_and_chunk() -> None:
    flow = FlowConfig(middle=1.0, steps=1, temperature=0.0)
    policy = tiny_world(flow=flow, picture_end=1.0, small=dataclasses.replace(tiny_world_config().small, crop=1.0))
    batch = batch_of(policy.config, [2, 5])
    policy.train()
    action, picture = losses(policy, batch)
    policy.eval()
    context = policy.encode(batch["images"], batch["image_mask"], batch["instruction"])
    dims = batch["action_mask"].any(1)
    told = batch["state"], batch["state_mask"], batch["embodiment"], dims
    acted, seen = policy.imagine(context, *told)
    _, future = policy._seen(batch)
    torch.testing.assert_close(action, (acted - batch["action"]).square().flatten(1).mean(1), **CLOSE)
    torch.testing.assert_close(picture, (seen - future).square().flatten(1).mean(1), **CLOSE)
    measured = policy.measure(batch)
    torch.testing.assert_close(measured["picture_error"], picture, **CLOSE)
    copied = (context.newest - future).square().flatten(1).mean(1)
    torch.testing.assert_close(measured["picture_copied"], copied, **CLOSE)


@pytest.mark.parametrize("kind", ["autoencoder", "frozen"])
def test_saved_and_loaded_it_acts_as_before(kind: str, tmp_path: Path) -> None:
    vision = {} if kind == "autoencoder" else {"vision": VisionConfig(name=tiny_dino())}
    policy = tiny_world(**vision)
    teach(policy, "gr1", 4, 3)
    save_policy(policy, tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert isinstance(loaded, WorldActionPolicy) and loaded.first_stage is None
    assert not any(p.requires_grad for p in (loaded.pictures or loaded.backbone).parameters())  # type: ignore[union-attr]
    images, state = some_images(2), np.ones((2, 4), np.float32)
    acts = [
        one.act_batch(images, here(images), ["open", "close"], state, "gr1", noise=keys(2)) for one in (policy, loaded)
    ]
    assert np.array_equal(*acts) and np.isfinite(acts[0]).all()
    batch = batch_of(policy.config, [1, 2])
    torch.testing.assert_close(losses(loaded, batch), losses(policy, batch))


def test_a_head_that_sees_by_other_means_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world_action.*no vlm.name"):
        tiny_world_config(vlm=VlmConfig(name="some/model"))
    for name, value in (("future_s", 0.0), ("picture_end", 1.5), ("widths", (12,)), ("steps", 0), ("weight", -1.0)):
        with pytest.raises(ValueError, match=f"world.*{name}|world.{name}"):
            tiny_world_config(**{name: value})


def test_before_its_first_stage_it_asks_for_it_and_after_it_its_pictures_stay() -> None:
    policy = build_policy(tiny_world_config())
    assert isinstance(policy, WorldActionPolicy)
    stage = policy.first_stage
    assert stage is policy.pictures and stage is not None
    batch = batch_of(policy.config, [1, 1, 1])
    error = stage.loss(batch)
    error.backward()
    assert all(p.grad is not None for p in stage.parameters())
    assert stage.measure(batch)["mean_picture"] > 0
    stage.settle()
    assert policy.first_stage is None and not any(p.requires_grad for p in stage.parameters())


@pytest.mark.parametrize("size", [32, 33, 45, 64, 84])
def test_the_autoencoder_gives_back_pictures_of_their_size(size: int) -> None:
    policy = build_policy(tiny_world_config(image_size=size))
    assert isinstance(policy, WorldActionPolicy) and policy.pictures is not None
    images = torch.randint(0, 255, (2, 1, 3, size, size), dtype=torch.uint8)
    seen = policy.pictures.views(images, False)[:, 0]
    tokens = policy.pictures.encode(seen)
    assert tokens.shape == (2, policy.pictures.patches, 8) and policy.pictures.decode(tokens).shape == seen.shape
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0)
