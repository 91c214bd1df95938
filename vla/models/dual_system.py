"""The dual-system policy: a vision-language backbone, and the flow-matching DiT that turns its tokens into actions.

The DiT's sequence is [state (1), future tokens (M), action (H)]; a learned position is added to action tokens only.
A token that is not there (no state, no action) is masked out of self-attention, unless another stands for the state. A step
past the episode's end is there, as in acting, where nobody knows the end: it is taken out of the loss alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from corpora.text import ReadText
from vla.batch import PolicyBatch, check_batch, shown_state
from vla.models.config import PolicyConfig
from vla.models.dit import Dit, VisionLanguageBlocks, sinusoid
from vla.models.embodiment_layers import EmbodimentLayers
from vla.models.flow_matching import bucket, euler, flow_loss_per_sample, noised, sample_start
from vla.models.small import SmallBackbone
from vla.models.vision import VisionReader, vision_parts
from vla.noise import NoiseKey, drawn
from vla.policy import Backbone, ContextTokens, Policy, PolicyLoss


class Projector(nn.Module):
    """Between System 2 and System 1: layer norm, a linear layer and self-attention, each where the recipe has it."""

    def __init__(self, dim: int, direct_dim: int, config: PolicyConfig) -> None:
        super().__init__()
        vlm = config.vlm
        self.norm: nn.Module = nn.LayerNorm(dim) if vlm.name and vlm.layer_norm else nn.Identity()
        self.dim = vlm.project_to or dim
        self.linear: nn.Module = nn.Linear(dim, self.dim) if vlm.project_to else nn.Identity()
        layers = vlm.self_attention_layers
        self.attention = VisionLanguageBlocks(self.dim, layers, max(1, self.dim // 64)) if layers else None
        self.direct_dim = direct_dim

    def read_text(self, instruction: str) -> ReadText | None:
        """The backbone has read it."""
        return None

    def forward(self, tokens: ContextTokens, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """What the backbone says of the images and the instruction holds both already."""
        projected = dataclasses.replace(tokens, features=self.linear(self.norm(tokens.features)))
        return projected if self.attention is None else self.attention(projected)


class DualSystemPolicy(Policy):
    """GR00T's design (2503.14734) with exchangeable parts."""

    tunable = True
    sampler = True
    config: PolicyConfig

    def __init__(
        self, config: PolicyConfig, backbone: Backbone | None = None, projector: VisionReader | None = None
    ) -> None:
        """`backbone`: an instance, instead of what the configuration names; `projector`: its reader, where it has one."""
        super().__init__(config)
        if backbone is None:
            backbone, projector = _system2(config, None)
        self.backbone = backbone
        self.projector: Projector | VisionReader = projector or Projector(backbone.dim, backbone.direct_dim, config)
        self.dit = Dit(config.dit, self.projector.dim)
        width = config.dit.width
        self.embodiment_layers = EmbodimentLayers(
            config.slots,
            state_dim=config.max_state_dim,
            action_dim=config.max_action_dim,
            hidden=config.hidden,
            width=width,
            output_dim=config.dit.output_dim,
        )
        # as large as the tokens that they are added to: which step a token is must be seen from the start
        self.action_position = nn.Parameter(0.5 * sinusoid(torch.arange(config.horizon), width))
        direct = self.projector.direct_dim
        self.direct = nn.Linear(direct, config.horizon * width) if direct else None
        self.future = nn.Parameter(0.5 * torch.randn(config.future_tokens, width))
        self.no_state = nn.Parameter(0.02 * torch.randn(1, 1, width)) if config.hidden_state == "token" else None

        self.most_views = None if config.vlm.name else (config.small.cameras, config.small.history)

    @classmethod
    def build(cls, config: PolicyConfig, settings: Path | None) -> DualSystemPolicy:
        """With fresh weights; `settings`: folder of a saved backbone's settings, whose weights are loaded afterwards."""
        return cls(config, *_system2(config, settings))

    @property
    def system2(self) -> Backbone:
        return self.backbone

    def read_text(self, instruction: str) -> ReadText | None:
        return self.projector.read_text(instruction) or self.backbone.read_text(instruction)

    @property
    def future_tokens(self) -> int:
        return self.config.future_tokens

    @property
    def future_width(self) -> int:
        return self.config.dit.width

    def _copy_embodiment(self, source: int, target: int) -> None:
        self.embodiment_layers.copy(source, target)

    def encode(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        tokens: ContextTokens = self.projector(self.backbone(images, image_mask, instruction), image_mask, instruction)
        return tokens

    def loss(self, batch: PolicyBatch) -> PolicyLoss:
        config = self.config
        check_batch(batch, horizon=config.horizon, state_dim=config.max_state_dim, action_dim=config.max_action_dim)
        if "features" in batch:
            dtype = next(self.dit.parameters()).dtype
            seen = ContextTokens(batch["features"].to(dtype), batch["feature_mask"], batch["feature_is_image"])
            tokens = self.projector(seen, batch["image_mask"], batch["instruction"])
        else:
            tokens = self.encode(batch["images"], batch["image_mask"], batch["instruction"])
        draws = config.flow.draws if self.training else 1
        action, mask, state, state_mask, embodiment_id = (
            value.repeat_interleave(draws, 0)
            for value in (
                batch["action"],
                batch["action_mask"],
                batch["state"],
                batch["state_mask"],
                batch["embodiment"],
            )
        )
        state_mask = shown_state(state_mask, config.state_dropout if self.training else 0.0)
        dims = mask.any(1)
        action = action.masked_fill(~dims[:, None], 0)
        # held-out losses are those of flow matching, whatever the training adds
        flow = config.flow if self.training else dataclasses.replace(config.flow, draws=1, middle=0.0)
        noise, time = (value.to(action.device) for value in sample_start(action.shape, flow))
        x, velocity = noised(action, noise, time)
        predicted, states = self.velocity(tokens, x, dims, time, state, state_mask, embodiment_id)
        loss = flow_loss_per_sample(predicted.float(), velocity, mask)
        size = len(batch["action"])
        return PolicyLoss(
            action_loss=loss.view(size, draws).mean(1),
            has_action=batch["action_mask"].flatten(1).any(1),
            future_states=None if states is None else states.unflatten(0, (size, draws)),
            tokens=tokens,
        )

    def velocity(
        self,
        tokens: ContextTokens,
        x: Tensor,
        dims: Tensor,
        time: Tensor,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity [B K, H, Da] of the noised chunk x at times [B K], and the future tokens' states [B K, M, W].

        `dims` bool [B K, Da]: dimensions of the action that the robot has; none for a sample without actions.
        """
        config = self.config
        time_bucket = bucket(time, config.flow)
        # what is padded is not seen: neither noise in padded dimensions, unless it is asked for, nor the value of a hidden state
        if config.padded == "zero":
            x = x.masked_fill(~dims[:, None], 0)
        action_tokens = self.embodiment_layers.action(x, time_bucket, embodiment_id) + self.action_position
        if self.direct is not None:
            assert tokens.direct is not None
            draws = len(x) // len(tokens.direct)
            action_tokens = action_tokens + self.direct(tokens.direct).view(
                -1, *action_tokens.shape[1:]
            ).repeat_interleave(draws, 0)
        state_token = self.embodiment_layers.state(state.masked_fill(~state_mask, 0)[:, None], embodiment_id)
        has_state = state_mask.any(1, keepdim=True)
        if config.hidden_state != "masked":
            hidden = torch.zeros_like(state_token) if self.no_state is None else self.no_state.to(state_token.dtype)
            state_token = torch.where(has_state[:, None], state_token, hidden)
            has_state = torch.ones_like(has_state)
        future = self.future.to(action_tokens.dtype).expand(len(x), -1, -1)
        sequence = torch.cat([state_token.to(action_tokens.dtype), future, action_tokens], 1)
        there = torch.cat(
            [
                has_state,
                torch.ones(len(x), config.future_tokens, dtype=torch.bool, device=x.device),
                dims.any(1, keepdim=True).expand(-1, config.horizon),
            ],
            1,
        )
        places = slice(1, 1 + config.future_tokens) if config.future_tokens else None
        output, states = self.dit(sequence, there, tokens, time_bucket, future=places)
        return self.embodiment_layers.decoder(output[:, -config.horizon :], embodiment_id), states

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
        config = self.config
        shape = (len(state), config.horizon, config.max_action_dim)
        start = config.flow.temperature * drawn(noise, shape).to(state.device)
        dims = (torch.arange(config.max_action_dim, device=state.device) < action_dim).expand(len(state), -1)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return self.velocity(tokens, x, dims, time, state, state_mask, embodiment_id)[0].float()

        return euler(velocity, start, config.flow.steps) * dims[:, None]


def _system2(config: PolicyConfig, settings: Path | None) -> tuple[Backbone, VisionReader | None]:
    if config.vision.name:
        return vision_parts(config, settings)
    if not config.vlm.name:
        return SmallBackbone(config.small), None
    from vla.models.huggingface import HfBackbone

    if settings is not None:
        return HfBackbone.from_pretrained(settings, weights=False), None
    return HfBackbone.from_pretrained(config.vlm.name, layer=config.vlm.layer, prompt=config.vlm.prompt), None
