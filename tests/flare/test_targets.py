"""Target encoders and the one that learns from actions: slow references, padding, toys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from flare.action_aware import ActionAwareEncoder, ActionAwareTraining, FlowHead, sine_positions
from flare.config import ActionAwareConfig, FlareConfig
from flare.objective import alignment_loss
from flare.slow_copy import SlowCopy
from flare.targets import (
    ActionAwareTarget,
    PooledTarget,
    StandardisedTarget,
    TargetShape,
    build_target,
    pool_grid,
)


class SmallVision(nn.Module):
    """uint8 [B, 3, S, S] -> [B, (S / 4)^2, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), nn.GELU(), nn.Conv2d(12, 12, 3, 2, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.float() / 255).flatten(2).transpose(1, 2)


class Words(nn.Module):
    """One token a letter of "abc", with room for 4."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 6)

    def forward(self, instruction: Sequence[str]) -> tuple[Tensor, Tensor]:
        codes = torch.tensor([["abc".index(x) + 1 for x in text] + [0] * (4 - len(text)) for text in instruction])
        return self.table(codes), codes > 0


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("filling", [0.0, 1e4, math.nan])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(filling: float, training: bool) -> None:
    net = encoder().train(training)
    tokens = torch.randn(3, 7, 16)
    padded = torch.cat([tokens, torch.full((3, 6, 16), filling)], 1)
    mask = torch.arange(13).expand(3, -1) < 7
    read, alone = net.of_tokens(padded, mask), net.of_tokens(tokens, mask[:, :7])
    torch.testing.assert_close(read, alone, atol=1e-5, rtol=0)
    # a sample alone is the sample in a batch of longer ones
    torch.testing.assert_close(net.of_tokens(tokens[1:2], mask[1:2, :7]), read[1:2], atol=1e-5, rtol=0)


def test_a_sample_without_tokens_is_finite_and_says_nothing() -> None:
    net = encoder()
    mask = torch.tensor([[True] * 4, [False] * 4])
    first, second = (net.of_tokens(torch.randn(2, 4, 16), mask) for _ in range(2))
    torch.testing.assert_close(first[1], second[1])
    assert not torch.allclose(first[0], second[0])
    second.pow(2).sum().backward()
    used = [net.queries, net.nothing, *net.mix.parameters(), *net.read.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used)
    with pytest.raises(ValueError, match=r"mask torch.int64 \[2, 4\] for tokens \[2, 4, 16\]"):
        net.of_tokens(torch.randn(2, 4, 16), mask.long())


def test_positions_of_patches_are_distinct_and_two_dimensional() -> None:
    table = sine_positions(16, 12)
    assert table.shape == (16, 12)
    assert torch.cdist(table, table).add(torch.eye(16)).min() > 0.1
    grid = table.view(4, 4, 12)
    torch.testing.assert_close(grid[0, 1] - grid[0, 0], grid[3, 1] - grid[3, 0])
    assert sine_positions(7, 5).shape == (7, 5)


def test_pooling_averages_blocks_of_the_grid() -> None:
    tokens = torch.randn(2, 64, 5)
    pooled = pool_grid(tokens, 32)  # 4 rows x 8 columns of an 8 x 8 grid
    for row in range(4):
        for column in range(8):
            patches = [tokens[:, (2 * row + y) * 8 + column] for y in range(2)]
            torch.testing.assert_close(pooled[:, row * 8 + column], sum(patches) / 2)
    torch.testing.assert_close(pool_grid(tokens, 64), tokens)
    assert pool_grid(torch.randn(1, 49, 5), 16).shape == (1, 16, 5)  # 7 x 7 to 4 x 4 by overlapping cells
    with pytest.raises(ValueError, match="32 tokens need a grid of 4 x 8, but the image has 4 x 4 patches"):
        pool_grid(torch.randn(1, 16, 5), 32)
    with pytest.raises(ValueError, match="17 tokens of an image are no square grid"):
        pool_grid(torch.randn(1, 17, 5), 4)


def test_cameras_stand_one_after_the_other_and_missing_ones_are_no_target() -> None:
    torch.manual_seed(0)
    target = PooledTarget(SmallVision(), tokens=8, cameras=2, image_size=16)
    shown = images(3, 2, 3, 16, 16)
    out = target(shown, [""] * 3)
    assert out.shape == (3, 8, 12) and target.dim == 12
    alone = PooledTarget(SmallVision(), tokens=4, image_size=16)
    alone.load_state_dict(target.state_dict())
    for view in range(2):
        torch.testing.assert_close(out[:, 4 * view : 4 * view + 4], alone(shown[:, view : view + 1], [""] * 3))
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]]).bool()
    assert target.token_mask(mask).tolist() == [[True] * 8, [True] * 4 + [False] * 4, [False] * 8]
    with pytest.raises(ValueError, match="1 cameras for a target of 2"):
        target(shown[:, :1], [""] * 3)
    with pytest.raises(ValueError, match="7 tokens for 2 cameras"):
        PooledTarget(SmallVision(), tokens=7, cameras=2, image_size=16)
    with pytest.raises(ValueError, match=r"images torch.float32 \[3, 2, 3, 16, 16\]: uint8"):
        target(shown.float(), [""] * 3)
    with pytest.raises(ValueError, match="2 instructions for 3 samples"):
        target(shown, ["", ""])


def test_only_samples_with_a_future_are_encoded() -> None:
    torch.manual_seed(0)
    seen: list[int] = []

    class Counting(SmallVision):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return super().forward(images)

    target = PooledTarget(Counting(), tokens=4, image_size=16)
    shown, has_future = images(4, 1, 3, 16, 16), torch.tensor([True, False, True, False])
    seen.clear()
    out, token_mask = target.of_batch(shown, list("abcd"), has_future)
    assert seen == [2]
    torch.testing.assert_close(out[has_future], target(shown, [""] * 4)[has_future])
    assert token_mask.tolist() == [[True] * 4, [False] * 4] * 2
    predicted = torch.randn(4, 4, 12)
    with_mask = alignment_loss(predicted, out, has_future, token_mask=token_mask)
    torch.testing.assert_close(with_mask, alignment_loss(predicted, out, has_future))
    nobody, token_mask = target.of_batch(shown, list("abcd"), torch.zeros(4).bool())
    assert seen[2:] == [] and nobody.abs().max() == 0 and not token_mask.any()


def test_the_average_target_follows_the_policys_vision_and_the_frozen_one_does_not() -> None:
    torch.manual_seed(0)
    online, shown = SmallVision(), images(2, 1, 3, 16, 16)
    follows = build_target(FlareConfig(ema=0.5), TargetShape(4, 16, vision=online))
    stays = build_target(FlareConfig(ema=1.0), TargetShape(4, 16, vision=online))
    start = follows(shown, ["", ""])
    with torch.no_grad():
        for p in online.parameters():
            p.add_(torch.randn_like(p))
    now = pool_grid(online(shown[:, 0]), 4)
    for _ in range(30):
        follows.update(online)
        stays.update(online)
    torch.testing.assert_close(follows(shown, ["", ""]), now.detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(stays(shown, ["", ""]), start)
    assert online.training and not any(p.requires_grad for p in follows.parameters())
    assert all(p.requires_grad for p in online.parameters())
    with pytest.raises(ValueError, match="update\\(vision\\)"):
        follows.update()


def encoder(**keywords: object) -> ActionAwareEncoder:
    torch.manual_seed(0)
    return ActionAwareEncoder(SmallVision(), 12, dim=16, tokens=4, heads=2, layers=2, **keywords)  # type: ignore[arg-type]


def test_a_missing_camera_is_not_seen_and_words_are() -> None:
    net = encoder(text=Words(), text_dim=6, cameras=2).eval()
    shown, mask = images(2, 2, 3, 16, 16), torch.tensor([[True, False], [True, True]])
    out = net(shown, ["ab", ""], image_mask=mask)
    assert out.shape == (2, 4, 16)
    other = shown.clone()
    other[0, 1] = 255 - other[0, 1]
    torch.testing.assert_close(net(other, ["ab", ""], image_mask=mask)[0], out[0], atol=1e-5, rtol=0)
    assert not torch.allclose(net(other, ["ab", ""])[0], net(shown, ["ab", ""])[0], atol=1e-4)
    assert (net(shown.flip(1), ["ab", ""]) - net(shown, ["ab", ""])).abs().max() > 1e-4  # so does that of cameras
    swapped = net(shown, ["ba", ""], image_mask=mask)
    assert (swapped[0] - out[0]).abs().max() > 1e-4  # the order of words counts
    torch.testing.assert_close(swapped[1], out[1])
    # padding of another sample's longer text changes nothing
    torch.testing.assert_close(net(shown[:1], ["ab"], image_mask=mask[:1])[0], out[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="3 cameras for an encoder of 2"):
        net(images(1, 3, 3, 16, 16), [""])
    with pytest.raises(ValueError, match="give both or neither"):
        encoder(text=Words())


def dots(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square in a dark image; the chunk leads to it: action = its place, growing over 3 steps."""
    place = torch.randint(0, 13, (count, 2), generator=torch.Generator().manual_seed(seed))
    shown = torch.zeros(count, 1, 3, 16, 16, dtype=torch.uint8)
    for i, (y, x) in enumerate(place.tolist()):
        shown[i, 0, :, y : y + 4, x : x + 4] = 255
    goal = (place.float() - 6) / 4
    return shown, goal[:, None] * torch.tensor([0.5, 1.0, 1.5])[:, None], torch.ones(count, 3, 2).bool()


def test_pre_training_on_actions_lowers_the_flow_loss_by_what_images_show() -> None:
    training = ActionAwareTraining(encoder(), FlowHead(2, 3, 16, dim=32, depth=2, heads=2))
    optimiser = torch.optim.AdamW(training.parameters(), 3e-3)
    held_out = dots(256, 1)

    def loss(shown: Tensor) -> float:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            return training(shown, [""] * 256, *held_out[1:], generator=generator).item()

    before = loss(held_out[0])
    steps = torch.Generator().manual_seed(0)
    for step in range(100):
        optimiser.zero_grad()
        shown, action, mask = dots(48, 100 + step)
        training(shown, [""] * 48, action, mask, generator=steps).backward()
        nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimiser.step()
    assert loss(held_out[0]) < 0.5 * before
    assert loss(held_out[0]) < 0.6 * loss(held_out[0].flip(0))  # another sample's image misleads: images are used


def test_masked_actions_and_batches_without_any_do_no_harm() -> None:
    training = ActionAwareTraining(encoder(), FlowHead(2, 3, 16, state_dim=5, embodiments=3, dim=16, depth=1, heads=2))
    nn.init.normal_(training.head.out.weight)
    shown, action, mask = dots(4, 0)
    rest = {"state": torch.randn(4, 5), "embodiment": torch.tensor([0, 1, 2, 0])}

    def loss(action: Tensor, mask: Tensor) -> Tensor:
        return training(shown, [""] * 4, action, mask, generator=torch.Generator().manual_seed(0), **rest)

    mask[1] = False
    mask[2, :, 1] = False
    other = action.masked_fill(~mask, math.nan)
    assert torch.equal(loss(other, mask), loss(action, mask))
    nothing = loss(other, torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in training.head.out.parameters())
    with pytest.raises(ValueError, match="state_dim 5, the batch has no state"):
        training(shown, [""] * 4, action, mask)
    with pytest.raises(ValueError, match=r"action \[4, 2, 2\] for a head of \[B, 3, 2\]"):
        training(shown, [""] * 4, action[:, :2], mask[:, :2], **rest)


def test_a_head_that_learns_from_actions_is_not_told_when_an_episode_ends() -> None:
    training = ActionAwareTraining(encoder(), FlowHead(2, 3, 16, dim=16, depth=1, heads=2))
    shown, action, mask = dots(4, 0)
    read: list[Tensor] = []
    training.head.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    for steps in (3, 1):
        mask[0, steps:] = False
        training(shown, [""] * 4, action, mask, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*read) and read[0].all()


def test_the_flow_loss_of_a_known_velocity_is_that_of_its_formula() -> None:
    training = ActionAwareTraining(encoder(), FlowHead(2, 3, 16, dim=16, depth=1, heads=2))
    shown, action, mask = dots(6, 0)
    seen: dict[str, Tensor] = {}

    class Spy(nn.Module):
        def forward(self, noisy: Tensor, time: Tensor, context: Tensor, **_: object) -> Tensor:
            seen.update(noisy=noisy, time=time)
            return noisy

    training.head = Spy()  # type: ignore[assignment]
    loss = training(shown, [""] * 6, action, mask, generator=torch.Generator().manual_seed(0))
    at = seen["time"][:, None, None]
    noise = (seen["noisy"] - at * action) / (1 - at)
    expected = (seen["noisy"] - (action - noise)).pow(2).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    shown, action, mask = dots(4000, 0)
    small = ActionAwareTraining(encoder(), Spy())  # type: ignore[arg-type]
    small.encoder.forward = lambda *_, **__: torch.zeros(4000, 4, 16)  # type: ignore[method-assign, assignment]
    small(shown, [""] * 4000, action, mask, generator=torch.Generator().manual_seed(0))
    mean = 0.999 * (1 - 1.5 / 2.5)  # of 0.999 (1 - Beta(1.5, 1))
    assert seen["time"].mean().item() == pytest.approx(mean, abs=0.015)
    assert seen["time"].min() >= 0 and seen["time"].max() <= 0.999


SIZES = ActionAwareConfig(dim=16, layers=2, heads=2, head_dim=16, head_layers=1)
LEARNS = FlareConfig(target="action_aware", ema=0.5, action_aware=SIZES)
SHAPE = TargetShape(4, 16, vision=SmallVision(), horizon=3, action_dim=2)


def test_an_action_aware_target_follows_what_learns_from_actions() -> None:
    torch.manual_seed(0)
    target, shown = build_target(LEARNS, SHAPE).train(), images(2, 1, 3, 16, 16)
    training = target.learner()
    assert isinstance(target, ActionAwareTarget) and training is not None
    assert training.training and not target.average.training
    torch.testing.assert_close(target(shown, ["", ""]), training.encoder(shown, ["", ""]).detach(), atol=1e-5, rtol=0)
    with torch.no_grad():
        for p in training.encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    for _ in range(30):
        target.update()
    now = training.encoder(shown, ["", ""]).detach()
    torch.testing.assert_close(target(shown, ["", ""]), now, atol=1e-4, rtol=1e-3)
    assert target.token_mask(torch.tensor([[True], [False]])).tolist() == [[True] * 4, [False] * 4]
    assert SHAPE.vision is not None and all(p.requires_grad for p in SHAPE.vision.parameters())
    assert all(p.requires_grad for p in training.parameters())
    assert not any(p.requires_grad for p in target.average.parameters())


def test_what_a_target_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="no vision module to copy; give alignment.target-name"):
        build_target(LEARNS, TargetShape(4, 16, horizon=3, action_dim=2))
    with pytest.raises(ValueError, match="no vision module from images to tokens"):
        build_target(FlareConfig(), TargetShape(4, 16))


def test_targets_are_made_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    target = build_target(FlareConfig(standardise=True), TargetShape(4, 16, vision=SmallVision()))
    target.train()
    assert isinstance(target, StandardisedTarget) and isinstance(target.inner, PooledTarget)
    assert isinstance(target.inner.vision, SlowCopy)
    assert not any(module.training for module in target.inner.modules())


def test_a_target_of_kept_features_takes_those_of_its_model_alone() -> None:
    target = build_target(FlareConfig(target="backbone"), TargetShape(2, 32, cameras=2, features=(16, 8)))
    assert target.reads_features
    for shape in ((3, 2, 16, 7), (3, 1, 16, 8), (3, 16, 8)):
        with pytest.raises(ValueError, match=r"features .*: \[B, 2, N, 8\] is wanted"):
            target(torch.zeros(shape), ["a"] * 3)
