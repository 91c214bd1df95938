"""Head `world_action`: the future picture and the chunk of actions are denoised together, block by block (DreamZero, 2602.15922).

A block is what happens in the next `world.future_s` seconds: the picture then, and the actions until then. Its context is what the
camera really saw, in clean tokens: the first frame and the past image blocks (`history_s`). A sample without actions, such as
people's video, trains the picture alone: its action tokens are masked out of attention and loss, so that no gradient reaches
the actions' weights. A sample without a future picture has noise in its place, as in acting.

Picture tokens are those of a frozen model (`vision.name`), or of an autoencoder that the training's first stage trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpora.text import ReadText
from flare import ranks
from vla.batch import PolicyBatch, check_batch, shown_state
from vla.models.config import FlowConfig, PolicyConfig
from vla.models.dit import sinusoid
from vla.models.embodiment_layers import EmbodimentLayers
from vla.models.flow_matching import TIME_SCALE, bucket, flow_loss_per_sample, noised, sample_start
from vla.models.pictures import PictureAutoencoder, noisy
from vla.models.small import grid_position, word_buckets
from vla.models.vision import VisionBackbone
from vla.models.world_dit import CausalDit, Layout, Past
from vla.noise import NoiseKey, drawn
from vla.policy import Backbone, ContextTokens, PictureLoss, Policy, PolicyLoss


@dataclass(frozen=True, kw_only=True)
class WorldContext(ContextTokens):
    """What the camera really saw, as the block's tokens read it: the cache, and the newest picture."""

    past: Past
    newest: Tensor
    """[B, V N, C]: picture tokens of the present."""
    newest_there: Tensor
    """bool [B, V N]; False where a camera is missing."""
    layout: Layout

    def repeated(self, draws: int) -> WorldContext:
        """Each sample `draws` times, neighbours."""
        if draws == 1:
            return self
        past = [(k.repeat_interleave(draws, 0), v.repeat_interleave(draws, 0)) for k, v in self.past]
        mask, newest, there = (
            value.repeat_interleave(draws, 0) for value in (self.mask, self.newest, self.newest_there)
        )
        return dataclasses.replace(
            self,
            features=self.features.repeat_interleave(draws, 0),
            mask=mask,
            is_image=self.is_image.repeat_interleave(draws, 0),
            past=past,
            newest=newest,
            newest_there=there,
        )


@dataclass(frozen=True)
class Block:
    """What is denoised, B samples."""

    picture: Tensor
    """[B, V N, C]."""
    action: Tensor
    """[B, H, Da]."""
    picture_time: Tensor
    """[B]."""
    action_time: Tensor
    """[B]."""


class WorldActionPolicy(Policy):
    """A causal transformer over picture, action and state tokens."""

    sampler = True
    config: PolicyConfig

    def __init__(self, config: PolicyConfig, settings: Path | None = None) -> None:
        """With fresh weights; `settings`: folder of a saved frozen model's settings."""
        super().__init__(config)
        self.backbone: VisionBackbone | None = None
        self.pictures: PictureAutoencoder | None = None
        if config.vision.name:
            self.backbone = VisionBackbone(config.vision, settings)
            self.backbone.requires_grad_(False)
            patches, channels = self.backbone.patches(config.image_size), self.backbone.dim
        else:
            self.pictures = PictureAutoencoder(config)
            patches, channels = self.pictures.patches, self.pictures.dim
        small, width = config.small, config.dit.width
        self.most_views = (small.cameras, small.history)
        self.words = nn.Embedding(small.words, width)
        self.word_position = nn.Parameter(0.02 * torch.randn(small.max_words, width))
        self.frame = nn.Linear(channels, width)
        self.noised_picture = nn.Linear(2 * channels, width)
        side = round(patches**0.5)
        self.grid = nn.Parameter(0.5 * grid_position(width, side)[0].flatten(1).T)
        self.camera = nn.Parameter(0.02 * torch.randn(small.cameras, width))
        self.moment = nn.Parameter(0.02 * torch.randn(len(config.history_s) + 1, width))
        self.action_position = nn.Parameter(0.5 * sinusoid(torch.arange(config.horizon), width))
        self.dit = CausalDit(config.dit)
        self.picture_velocity = nn.Linear(width, channels)
        self.action_state = nn.Linear(width, config.dit.output_dim)
        self.embodiment_layers = EmbodimentLayers(
            config.slots,
            state_dim=config.max_state_dim,
            action_dim=config.max_action_dim,
            hidden=config.hidden,
            width=width,
            output_dim=config.dit.output_dim,
        )

    @property
    def system2(self) -> Backbone | None:
        return self.backbone

    @property
    def first_stage(self) -> PictureAutoencoder | None:
        return None if self.pictures is None or bool(self.pictures.trained) else self.pictures

    @property
    def future_s(self) -> float:
        return self.config.world.future_s

    def _copy_embodiment(self, source: int, target: int) -> None:
        self.embodiment_layers.copy(source, target)

    def read_text(self, instruction: str) -> ReadText:
        """A token a word."""
        small = self.config.small
        tokens = word_buckets(instruction, small.words, small.text_format)
        return tuple(tokens[: small.max_words]), max(0, len(tokens) - small.max_words)

    def encode(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> WorldContext:
        """The cache, filled with what was really seen."""
        if self.pictures is not None:
            seen = self.pictures.views(images.flatten(1, 2), self.training)
            tokens = self.pictures.encode(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        else:
            assert self.backbone is not None
            tokens = self._of_features(self.backbone(images, image_mask, instruction).features, image_mask)
        return self._context(tokens.unflatten(1, image_mask.shape[1:]), image_mask, instruction)

    def loss(self, batch: PolicyBatch) -> PolicyLoss:
        config = self.config
        check_batch(batch, horizon=config.horizon, state_dim=config.max_state_dim, action_dim=config.max_action_dim)
        context, future = self._seen(batch)
        flow = config.flow if self.training else dataclasses.replace(config.flow, draws=1, middle=0.0)
        draws, size = flow.draws, len(future)
        names = ("action", "action_mask", "state", "state_mask", "embodiment", "has_future")
        action, mask, state, state_mask, embodiment_id, has_future = (
            batch[name].repeat_interleave(draws, 0)  # type: ignore[literal-required]
            for name in names
        )
        state_mask = shown_state(state_mask, config.state_dropout if self.training else 0.0)
        dims = mask.any(1)
        clean = future.repeat_interleave(draws, 0).masked_fill(~has_future[:, None, None], 0)
        noise, block = self._starts(action.masked_fill(~dims[:, None], 0), clean, has_future, flow)
        told = context.repeated(draws)
        picture, actions = self.velocities(told, block, dims, state, state_mask, embodiment_id)
        counted = (told.newest_there & has_future[:, None])[..., None].expand_as(picture)
        seen = flow_loss_per_sample(picture.float(), clean - noise[0], counted)
        acted = flow_loss_per_sample(actions.float(), action - noise[1], mask)
        return PolicyLoss(
            action_loss=acted.view(size, draws).mean(1),
            has_action=batch["action_mask"].flatten(1).any(1),
            future_states=None,
            tokens=context,
            picture=PictureLoss(seen.view(size, draws).mean(1), batch["has_future"], config.world.weight),
        )

    def _starts(
        self, action: Tensor, picture: Tensor, has_future: Tensor, flow: FlowConfig
    ) -> tuple[tuple[Tensor, Tensor], Block]:
        """Noise of picture and actions, and the noised block."""
        device, world = action.device, self.config.world
        noise, time = (value.to(device) for value in sample_start(action.shape, flow))
        rows = len(action) // flow.draws
        picture_noise = ranks.normal(rows, flow.draws, *picture.shape[1:]).flatten(0, 1).to(device)
        picture_time = time
        if world.times == "flash":
            drawn_time = 1 - ranks.uniform(rows, flow.draws).pow(1 / world.picture_alpha)
            picture_time = drawn_time.flatten().clamp(0, TIME_SCALE).to(device)
        middle = (noise == 0).flatten(1).all(1) & bool(flow.middle)
        picture_noise = picture_noise.masked_fill(middle[:, None, None], 0)
        # nothing but noise where there is no picture, as in acting
        picture_time = picture_time.masked_fill(middle | ~has_future, 0)
        x, _ = noised(picture, picture_noise, picture_time)
        y, _ = noised(action, noise, time)
        return (picture_noise, noise), Block(x, y, picture_time, time)

    def velocities(
        self,
        context: WorldContext,
        block: Block,
        dims: Tensor,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of the picture [B, V N, C] and of the actions [B, H, Da]. `dims` bool [B, Da]: dimensions of the action that the robot has;
        none for a sample without actions."""
        tokens, there, group, times = self._block(context, block, dims, state, state_mask, embodiment_id)
        seen = context.layout.mask(tokens.device)[context.layout.context :]
        mask = _visible(seen, torch.cat([context.mask, there], 1))
        states, _ = self.dit(tokens, times, group, mask, context.past)
        return self._read(states, context.layout, embodiment_id)

    def _read(self, states: Tensor, layout: Layout, embodiment_id: Tensor) -> tuple[Tensor, Tensor]:
        picture, action, _ = states.split([layout.picture, layout.actions, 1], 1)
        return self.picture_velocity(picture), self.embodiment_layers.decoder(self.action_state(action), embodiment_id)

    def _block(
        self,
        context: WorldContext,
        block: Block,
        dims: Tensor,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, L, W], which are there, which of the three flow times each has, and these [B, 3]."""
        flow, layout, device = self.config.flow, context.layout, block.action.device
        times = torch.stack([torch.ones_like(block.action_time), block.picture_time, block.action_time], 1)
        bucketed = bucket(times, flow)
        cameras = layout.picture // len(self.grid)
        beside = torch.cat([block.picture, context.newest], -1).to(self.noised_picture.weight.dtype)
        place = (self.grid + self.camera[:cameras, None] + self.moment[-1]).flatten(0, 1)
        picture = self.noised_picture(beside) + place
        action = block.action.masked_fill(~dims[:, None], 0)
        acted = self.embodiment_layers.action(action, bucketed[:, 2], embodiment_id) + self.action_position
        felt = self.embodiment_layers.state(state.masked_fill(~state_mask, 0)[:, None], embodiment_id)
        there = torch.cat(
            [
                context.newest_there,
                dims.any(1, keepdim=True).expand(-1, layout.actions),
                state_mask.any(1, keepdim=True),
            ],
            1,
        )
        sizes = torch.tensor([layout.picture, layout.actions, 1], device=device)
        group = torch.tensor([1, 2, 0], device=device).repeat_interleave(sizes)
        return torch.cat([picture, acted.to(picture.dtype), felt.to(picture.dtype)], 1), there, group, bucketed

    def _seen(self, batch: PolicyBatch) -> tuple[WorldContext, Tensor]:
        """The context, and tokens [B, V N, C] of the future picture: of samples that have none, of whatever stands there."""
        image_mask, text = batch["image_mask"], batch["instruction"]
        cameras, moments = image_mask.shape[1:]
        if self.pictures is not None:
            shown = torch.cat([batch["images"].flatten(1, 2), batch["future"]], 1)
            seen = self.pictures.views(shown, self.training)
            with torch.no_grad():
                found = self.pictures.encode(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
            frames, future = found[:, : cameras * moments], found[:, cameras * moments :]
        else:
            assert self.backbone is not None
            if "future_features" in batch:
                now, then = batch["features"], batch["future_features"].flatten(1, 2)
            else:
                now = self.backbone(batch["images"], image_mask, text).features
                shown, there = batch["future"][:, :, None], image_mask[:, :, -1:]
                then = self.backbone(shown, there, text).features
            frames = noisy(self._of_features(now, image_mask), self.config.vision.noise, self.training)
            future = self._of_features(then, image_mask[:, :, -1:])
        context = self._context(frames.unflatten(1, (cameras, moments)), image_mask, text)
        return context, future.flatten(1, 2).float()

    def _of_features(self, features: Tensor, image_mask: Tensor) -> Tensor:
        """A frozen model's [B, V T N, D] -> [B, V T, N, D], each token of mean 0 and variance 1."""
        pictures = image_mask.shape[1] * image_mask.shape[2]
        return F.layer_norm(features, features.shape[-1:]).unflatten(1, (pictures, -1))

    def _context(self, pictures: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> WorldContext:
        """`pictures` [B, V, T, N, C], `image_mask` bool [B, V, T]."""
        x, there, layout = self.context_tokens(pictures, image_mask, instruction)
        clean = torch.full((len(x), 1), self.config.flow.buckets - 1, device=x.device)
        group = torch.zeros(layout.context, dtype=torch.long, device=x.device)
        mask = _visible(layout.mask(x.device)[: layout.context, : layout.context], there)
        features, past = self.dit(x, clean, group, mask)
        is_image = torch.zeros_like(there)
        is_image[:, layout.words :] = True
        seen = image_mask[:, :, -1, None].expand(-1, -1, pictures.shape[3]).flatten(1)
        newest = pictures[:, :, -1].flatten(1, 2)
        return WorldContext(features, there, is_image, past=past, newest=newest, newest_there=seen, layout=layout)

    def context_tokens(
        self, pictures: Tensor, image_mask: Tensor, instruction: Sequence[str]
    ) -> tuple[Tensor, Tensor, Layout]:
        """Tokens [B, L, W] of words and pictures, moment by moment, and which are there."""
        cameras, moments, patches = pictures.shape[1:4]
        rows = [self.read_text(text)[0] for text in instruction]
        length = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=pictures.device)
        worded = torch.tensor([[k < len(row) for k in range(length)] for row in rows], device=pictures.device)
        words = self.words(ids) + self.word_position[:length]
        place = self.grid + self.camera[:cameras, None, None] + self.moment[:moments, None]
        frames = self.frame(pictures.to(self.frame.weight.dtype)) + place
        there = image_mask[..., None].expand(-1, -1, -1, patches)
        x = torch.cat([words, frames.transpose(1, 2).flatten(1, 3)], 1)
        mask = torch.cat([worded, there.transpose(1, 2).flatten(1)], 1)
        return x, mask, Layout(length, cameras * patches, moments, self.config.horizon)

    @torch.no_grad()
    def sample(
        self,
        tokens: ContextTokens,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
        action_dim: int,
        noise: Sequence[NoiseKey] | None = None,
    ) -> Tensor:
        width = self.config.max_action_dim
        dims = (torch.arange(width, device=state.device) < action_dim).expand(len(state), -1)
        end = self.config.world.picture_end
        return self.imagine(tokens, state, state_mask, embodiment_id, dims, noise, picture_end=end)[0]

    @torch.no_grad()
    def imagine(
        self,
        tokens: ContextTokens,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
        dims: Tensor,
        noise: Sequence[NoiseKey] | None = None,
        *,
        picture_end: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Encoded actions [B, H, Da] and picture tokens [B, V N, C], in `flow.steps` steps. `dims` bool [B, Da]; `picture_end`: the
        flow time that the picture is brought to."""
        context = cast(WorldContext, tokens)  # of `encode`
        flow, size = self.config.flow, len(state)
        chunk, picture = (self.config.horizon, self.config.max_action_dim), context.newest.shape[1:]
        numbers = [chunk[0] * chunk[1], picture[0] * picture[1]]
        first, second = drawn(noise, (size, sum(numbers))).to(state.device).split(numbers, 1)
        x, y = flow.temperature * second.view(size, *picture), flow.temperature * first.view(size, *chunk)
        for step in range(flow.steps):
            time = torch.full((size,), step / flow.steps, device=state.device)
            block = Block(x, y, picture_end * time, time)
            seen, acted = self.velocities(context, block, dims, state, state_mask, embodiment_id)
            x, y = x + picture_end * seen.float() / flow.steps, y + acted.float() / flow.steps
        return y * dims[:, None], x

    @torch.no_grad()
    def measure(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """[B]: square errors of the future picture's tokens as `imagine` has them, and of a copy of the present ones; NaN where there
        is no future."""
        context, future = self._seen(batch)
        dims = batch["action_mask"].any(1)
        args = batch["state"], batch["state_mask"], batch["embodiment"], dims
        _, found = self.imagine(context, *args)
        lost = ~(context.newest_there & batch["has_future"][:, None])
        errors = {"picture_error": found - future, "picture_copied": context.newest - future}
        return {
            name: error.float().square().mean(-1).masked_fill(lost, torch.nan).nanmean(1)
            for name, error in errors.items()
        }


def _visible(seen: Tensor, there: Tensor) -> Tensor:
    """bool [Q, K] of the layout and bool [B, K] which keys are there -> [B, Q, K]; a token, the last Q of K, always sees itself."""
    queries, keys = seen.shape
    own = torch.eye(keys, dtype=torch.bool, device=seen.device)[keys - queries :]
    return seen & there[:, None] | own
