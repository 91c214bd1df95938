"""UniVLA's network (arXiv 2505.06111, section 3.1; its public code): learned tokens stand before the frozen features of
each frame, blocks attend over space, then causally over time, and the second frame's tokens are the latent.

Stage 1 reads the instruction as well, so that its codes hold what that does not say; stage 2 reads none, keeps stage
1's tokens and codebook beside, and learns task-centric tokens and codes. Shapes: F width of a feature, L words, D
width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lapa.model.action_token import BiasedAttention, SpaceTimeBlocks, sinusoids
from lapa.model.config import LamConfig
from lapa.model.decoder import FrameDecoder, Prediction
from lapa.model.encoder import WayIn
from lapa.model.kinds import QUANTISERS


class CausalBlocks(SpaceTimeBlocks):
    """Tokens have a place in their frame, which attention over time does not know; words come after them, without
    one."""

    time = BiasedAttention
    causal = True

    def forward(self, x: Tensor, words: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """`x` [B, T, N, D], words [B, L, D] that each frame sees, and which of them are no padding, bool [B, L] ->
        [B, T, N, D]."""
        count = x.shape[2]
        x = x + sinusoids(count, x.shape[3], x.device).to(x.dtype)
        if words is None or real is None:
            return self.through(x)
        x = torch.cat([x, words[:, None].to(x.dtype).expand(-1, x.shape[1], -1, -1)], 2)
        seen = torch.cat([real.new_ones(len(real), count), real], 1)
        padding = torch.zeros(seen.shape, device=x.device).masked_fill(~seen, float("-inf"))
        return self.through(x, padding[:, None, None, None])[:, :, :count]


def normalised(wide: int, dim: int) -> nn.Sequential:
    """A linear map between two norms."""
    return nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, dim), nn.LayerNorm(dim))


def words_of(text: Tensor | None) -> Tensor | None:
    """Which words are real, bool [B, L], of the text encoder's output [B, L, text_dim], whose padding is zero."""
    return None if text is None else text.any(-1)


class TaskTokens(WayIn):
    """`spatial_depth` blocks over space and time; no pool: each token is mapped to its latent. In stage 2 the latent's
    tokens come first, stage 1's after them."""

    sees_text = True
    two_stages = True

    def __init__(self, config: LamConfig) -> None:
        nn.Module.__init__(self)
        if config.pixels or QUANTISERS[config.quantiser.kind].moments > 1:
            raise ValueError(
                f"input 'task_tokens' with target '{config.target}' and quantiser.kind '{config.quantiser.kind}': it "
                "makes tokens of a frozen model's features, without their variance; set target to a vision model, and "
                "quantiser.kind vqvae"
            )
        self.tokens = config.tokens
        self.prompt = nn.Parameter(torch.empty(1, 1, config.tokens, config.feature_dim).uniform_(-1, 1))
        self.stem = normalised(config.feature_dim, config.dim)
        self.layers = CausalBlocks(config.dim, config.spatial_depth, config.heads, over_time=True)
        self.out = nn.Linear(config.dim, config.latent_dim)
        self.words = nn.Linear(config.text_dim, config.dim) if config.text_model else None
        self.task_prompt: nn.Parameter | None = None
        if config.stage == 2:
            self.task_prompt = nn.Parameter(torch.empty(1, 1, config.tokens, config.feature_dim).uniform_(-1, 1))
            self.rest_out = nn.Linear(config.dim, config.latent_dim)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None, text: Tensor | None = None) -> Tensor:
        frames = torch.stack([first, second], 1)
        prompts = self.prompt if self.task_prompt is None else torch.cat([self.task_prompt, self.prompt], 2)
        lead = prompts.expand(len(frames), 2, -1, -1).to(frames.dtype)
        words = None if self.words is None or text is None else self.words(text)
        x = self.layers(self.stem(torch.cat([lead, frames], 2)), words, words_of(text))[:, 1]
        with torch.autocast(x.device.type, enabled=False):
            latent = self.out(x[:, : self.tokens].float())
            if self.task_prompt is None:
                return latent
            return torch.cat([latent, self.rest_out(x[:, self.tokens : 2 * self.tokens].float())], 1)


class TaskTokensInFront(FrameDecoder):
    """The latent's tokens, in stage 2 stage 1's after them, stand before the first frame's patches; blocks over
    space."""

    def __init__(self, config: LamConfig) -> None:
        nn.Module.__init__(self)
        if config.pixels or config.residual or config.flow_weight:
            raise ValueError(
                "condition 'task_tokens': it predicts a frozen model's features of the second frame; set target to a "
                "vision model, residual no and flow_weight 0"
            )
        self.config = config
        dim = config.dim
        self.patches = nn.Linear(config.feature_dim, dim)
        self.enter = nn.Linear(config.latent_dim, dim)
        self.enter_rest = nn.Linear(config.latent_dim, dim) if config.stage == 2 else None
        self.words = nn.Linear(config.text_dim, dim) if config.text_model else None
        self.stem = normalised(dim, dim)
        self.layers = CausalBlocks(dim, config.decoder_depth, config.heads, over_time=False)
        self.out = nn.Linear(dim, config.feature_dim)

    def share_words(self, way: WayIn) -> None:
        self.words = way.words

    def enter_latent(self, x: Tensor, latent: Tensor, text: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        lead = [self.enter(latent[:, : self.config.tokens])]
        if self.enter_rest is not None:
            lead.append(self.enter_rest(latent[:, self.config.tokens :]))
        return self.stem(torch.cat([*lead, x], 1)), None

    def forward(self, first: Tensor, latent: Tensor, valid: Tensor | None, text: Tensor | None) -> Prediction:
        x, _ = self.enter_latent(self.patches(first), latent, [])
        words = None if self.words is None or text is None else self.words(text)
        x = self.layers(x[:, None], words, words_of(text))[:, 0]
        return Prediction(self.out(x[:, -self.config.patches :]), None)
