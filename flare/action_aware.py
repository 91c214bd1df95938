"""FLARE's action-aware embedding: vision and text tokens -> self-attention -> Q-former -> M tokens, trained on actions.

Features made for looking keep much that does not matter to a robot. Here the embedding is trained end to end by a
flow-matching head that must predict the action chunk from the M tokens alone (arXiv 2505.15659); then it is the target,
frozen or as a slow average. By target, GR-1 success in the paper: none 43.9, SigLIP2 49.6, pooled 50.9, this 55.0.
Shapes: B batch, V cameras, S picture size, N patches, L words, M tokens, D width, H steps of a chunk, A action width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flare.q_former import FeedForward, MaskedAttention, QFormer, SelfAttentionStack, sine_positions

ReadText = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""B instructions -> tokens float [B, L, Dt], mask bool [B, L]."""


class ActionAwareEncoder(nn.Module):
    """Observation -> M tokens of width D: 4 self-attention layers over vision and text tokens, then a Q-former.

    vision: nn.Module, uint8 [B, 3, S, S] -> tokens [B, N, vision_dim] (flare/hub_tokens.py or a small one of your own).
    text: nn.Module as `ReadText`, with its width `text_dim`; None: pictures alone.
    cameras: the most cameras that will be given; each has a learned embedding of its own.
    """

    def __init__(
        self,
        vision: nn.Module,
        vision_dim: int,
        *,
        text: nn.Module | None = None,
        text_dim: int = 0,
        dim: int = 1024,
        tokens: int = 32,
        cameras: int = 1,
        layers: int = 4,
        reads: int = 2,
        heads: int = 8,
    ) -> None:
        super().__init__()
        if (text is None) != (text_dim == 0):
            raise ValueError(f"text {type(text).__name__} with text_dim {text_dim}: give both or neither")
        self.vision, self.text = vision, text
        self.tokens, self.dim, self.cameras = tokens, dim, cameras
        self.from_vision = nn.Linear(vision_dim, dim)
        self.from_text = nn.Linear(text_dim, dim) if text is not None else None
        self.camera = nn.Parameter(0.02 * torch.randn(cameras, dim))
        self.think = SelfAttentionStack(dim, layers, heads)
        self.read = QFormer(dim, tokens=tokens, depth=reads, heads=heads)

    def forward(self, pictures: Tensor, instruction: Sequence[str], *, picture_mask: Tensor | None = None) -> Tensor:
        """uint8 [B, V, 3, S, S], B texts, bool [B, V] (False: camera missing) -> float [B, M, D]."""
        batch, views = check_pictures(pictures, instruction, picture_mask)
        if views > self.cameras:
            raise ValueError(f"{views} cameras for an encoder of {self.cameras}: build it with cameras={views}")
        seen = self.vision(pictures.flatten(0, 1))
        seen = self.from_vision(seen) + sine_positions(seen.shape[1], self.dim, device=seen.device).to(seen)
        tokens = (seen.unflatten(0, (batch, views)) + self.camera[:views, None]).flatten(1, 2)
        given = pictures.new_ones((batch, views), dtype=torch.bool) if picture_mask is None else picture_mask
        mask = given.repeat_interleave(seen.shape[1], dim=1)
        if self.text is not None and self.from_text is not None:
            words, real = self.text(instruction)
            words = self.from_text(words) + sine_positions(words.shape[1] + 1, self.dim, device=words.device)[1:].to(
                words
            )
            tokens, mask = torch.cat([tokens, words], 1), torch.cat([mask, real], 1)
        return self.read(self.think(tokens, mask), mask)


class FlowHead(nn.Module):
    """A small diffusion transformer: velocity of an action chunk, from context tokens and the flow time.

    Each block: AdaLN scale and shift from the time, self-attention over the steps, cross-attention to the context,
    feed-forward. The paper's has 8 blocks. It only serves pre-training and is thrown away afterwards.
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        context_dim: int,
        *,
        state_dim: int = 0,
        embodiments: int = 1,
        dim: int = 256,
        depth: int = 8,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.action_dim, self.horizon, self.state_dim, self.embodiments = action_dim, horizon, state_dim, embodiments
        self.embed = nn.Linear(action_dim, dim)
        self.embed_state = nn.Linear(state_dim, dim) if state_dim else None
        self.robot = nn.Embedding(embodiments, dim)
        self.steps = nn.Parameter(0.02 * torch.randn(horizon, dim))
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.modulate = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(depth + 1))
        self.among = nn.ModuleList(MaskedAttention(dim, heads) for _ in range(depth))
        self.read = nn.ModuleList(MaskedAttention(dim, heads, context_dim=context_dim) for _ in range(depth))
        self.feed_forward = nn.ModuleList(FeedForward(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.out = nn.Linear(dim, action_dim)
        nn.init.zeros_(self.out.weight)  # the first prediction is no velocity at all: a calm start
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        context: Tensor,
        *,
        state: Tensor | None = None,
        embodiment: Tensor | None = None,
    ) -> Tensor:
        """`noisy` [B, H, A], `time` [B] in [0, 1], `context` [B, M, D], `state` [B, Ds], `embodiment` int64 [B] -> velocity
        [B, H, A]."""
        if noisy.shape[1:] != (self.horizon, self.action_dim):
            raise ValueError(
                f"action {list(noisy.shape)} for a head of [B, {self.horizon}, {self.action_dim}]: build it with the horizon and "
                "the padded width of your chunks"
            )
        if (state is None) != (self.embed_state is None):
            raise ValueError(
                f"the head was built with state_dim {self.state_dim}, the batch has "
                f"{'no state' if state is None else f'a state of {state.shape[-1]}'}: they must agree"
            )
        robot = embodiment if embodiment is not None else noisy.new_zeros(len(noisy), dtype=torch.long)
        x = self.embed(noisy) + self.steps
        if self.embed_state is not None:
            x = x + self.embed_state(state)[:, None]
        condition = self.time(_time_features(time, x.shape[-1])) + self.robot(robot)
        for modulate, among, read, feed_forward in zip(
            self.modulate, self.among, self.read, self.feed_forward, strict=False
        ):
            scale, shift = modulate(condition)[:, None].chunk(2, -1)
            x = x + among(x * (1 + scale) + shift)
            x = x + read(x, context)
            x = x + feed_forward(x)
        scale, shift = self.modulate[-1](condition)[:, None].chunk(2, -1)
        return self.out(self.norm(x) * (1 + scale) + shift)


class ActionAwareTraining(nn.Module):
    """The encoder with the head that trains it; its forward is the loss, so that it can be wrapped (DDP) and stepped.

    x_t = (1 - t) noise + t action;  velocity = action - noise;  t = 0.999 (1 - Beta(1.5, 1))      (GR00T N1.5's form)
    """

    def __init__(self, encoder: ActionAwareEncoder, head: FlowHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self,
        pictures: Tensor,
        instruction: Sequence[str],
        action: Tensor,
        action_mask: Tensor,
        *,
        picture_mask: Tensor | None = None,
        state: Tensor | None = None,
        embodiment: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean square error of the velocity over the real action numbers; a scalar, 0 where no sample has any.

        `pictures` uint8 [B, V, 3, S, S] of the present; `action` float [B, H, A] normalised; `action_mask` bool [B, H, A].
        `generator` draws noise and time: with a seeded one, held-out losses can be compared.
        """
        if action_mask.dtype != torch.bool or action_mask.shape != action.shape:
            raise ValueError(
                f"action_mask {action_mask.dtype} {list(action_mask.shape)} for action {list(action.shape)}: it is bool of the "
                "same shape"
            )
        action = action.float().masked_fill(~action_mask, 0.0)
        device = generator.device if generator is not None else action.device
        noise = torch.randn(action.shape, generator=generator, device=device).to(action.device)
        uniform = torch.rand(len(action), generator=generator, device=device).to(action.device)
        time = 0.999 * (1 - uniform.pow(1 / 1.5))  # the inverse of Beta(1.5, 1)'s distribution function, u = x^1.5
        noise = noise.masked_fill(~action_mask, 0.0)
        at = time[:, None, None]
        context = self.encoder(pictures, instruction, picture_mask=picture_mask)
        velocity = self.head((1 - at) * noise + at * action, time, context, state=state, embodiment=embodiment)
        error = F.mse_loss(velocity.float(), action - noise, reduction="none").masked_fill(~action_mask, 0.0)
        return error.sum() / action_mask.sum().clamp_min(1)


def check_pictures(pictures: Tensor, instruction: Sequence[str], picture_mask: Tensor | None) -> tuple[int, int]:
    """(B, V) of uint8 [B, V, 3, S, S]; raises ValueError where pictures, texts or mask do not fit each other."""
    if pictures.ndim != 5 or pictures.shape[2] != 3 or pictures.dtype != torch.uint8:
        raise ValueError(f"pictures {pictures.dtype} {list(pictures.shape)}: uint8 [B, V, 3, S, S] is wanted")
    if len(instruction) != len(pictures):
        raise ValueError(
            f"{len(instruction)} instructions for {len(pictures)} samples: one each, '' where there is none"
        )
    if picture_mask is not None and (picture_mask.dtype != torch.bool or picture_mask.shape != pictures.shape[:2]):
        raise ValueError(
            f"picture_mask {picture_mask.dtype} {list(picture_mask.shape)} for pictures {list(pictures.shape)}: it is bool [B, V]"
        )
    return pictures.shape[0], pictures.shape[1]


def _time_features(time: Tensor, dim: int) -> Tensor:
    """Sines and cosines of 1000 t: [B] -> [B, dim]."""
    half = dim // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
    angles = 1000 * time[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, dim - 2 * half))
