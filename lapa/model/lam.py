"""The latent action model: an encoder of what happened between two frames, a quantiser, and a decoder that must predict
the second frame from the first and the latent alone.

    first, second --encoder--> latent [B, tokens, dim] --quantiser--> codes --decoder(first)--> second

LAPA, UniVLA, GR00T's latent action model and giza's `small` are settings of this one model (lapa/recipes.py). Shapes: B pairs,
S image size, N = (S / patch)^2 patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lapa.model.config import LamConfig
from lapa.model.decoder import FrameDecoder, Prediction
from lapa.model.encoder import PairEncoder
from lapa.model.kinds import CONDITIONS
from lapa.model.quantisers import build_quantiser
from lapa.pairs.batch import PairBatch
from lapa.pairs.flow import batch_flow
from lapa.pairs.table import Featurise


def featurise_for(config: LamConfig, device: str = "cpu") -> Featurise | None:
    """The frozen model of a feature target by its name; None for a model of images. Of a model on disk see
    `lapa.model.checkpoint.featurise_of`."""
    if config.pixels:
        return None
    from flare.vision import frozen_vision

    return frozen_vision(config.target).to(device).of_frames


@dataclass(frozen=True)
class Encoding:
    """Latents of a batch of pairs."""

    latent: Tensor
    """float32 [B, tokens, latent_dim], continuous, before quantisation."""
    quantized: Tensor
    """float32 [B, tokens, latent_dim]."""
    codes: Tensor | None
    """int64 [B, tokens] (rvq: [B, tokens * levels]); None for continuous models."""
    loss: Tensor
    """Scalar, the quantiser's part of the training loss."""
    rest: Tensor | None = None
    """float32 [B, tokens, latent_dim]: what the decoder sees of stage 1's tokens, in stage 2; no part of the latent."""


class LatentActionModel(nn.Module):
    """See the module's docstring. Images are float [B, 3, S, S] in [0, 1]; with a feature target, `first` and `second` are
    the frozen model's features [B, N, F] (flare/vision.py makes them)."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PairEncoder(config)
        self.quantiser = build_quantiser(config.quantiser, config.latent_dim, config.tokens, stage=config.stage)
        self.decoder: FrameDecoder = CONDITIONS[config.condition](config)
        if config.shared_stem:
            self.decoder.share(self.encoder.branches[0])  # type: ignore[arg-type]
        if config.needs_text:
            self.decoder.share_words(self.encoder.branches[0])  # type: ignore[arg-type]
        self.action_head = nn.Linear(config.latent_size, config.label_dim) if config.label_dim else None
        self.register_buffer("latent_mean", torch.zeros(config.tokens, config.latent_dim))
        self.register_buffer("latent_std", torch.ones(config.tokens, config.latent_dim))

    def encode(self, pairs: PairBatch, *, text: Tensor | None = None) -> Encoding:
        """What happened between the frames of each pair (images in [0, 1]); `text` [B, L, text_dim], where the encoder
        reads it.

        What one of the stabilised frames does not show (`valid`) is masked; optical flow is computed where the configuration
        wants it and the pairs have none.
        """
        flow = pairs.flow if self.config.sees_flow else None  # otherwise it is there as a target alone
        if flow is None and self.config.sees_flow:
            flow = batch_flow(pairs.first, pairs.second)
        latent = self.encoder(pairs.first, pairs.second, pairs.valid, flow, text).float()
        live = self.config.code_gradient or self.quantiser.continuous  # without codes, nothing else reaches the encoder
        quantised = self.quantiser(latent if live else latent.detach())
        own = latent[:, : self.config.tokens, : self.config.latent_dim]
        return Encoding(own, quantised.quantized, quantised.codes, quantised.loss, quantised.rest)

    def predict(
        self,
        first: Tensor,
        latent: Tensor,
        valid: Tensor | None = None,
        *,
        text: Tensor | None = None,
        rest: Tensor | None = None,
    ) -> Prediction:
        """The second frame and the flow to it, from the first frame and a latent [B, tokens, latent_dim]; `rest`: the
        tokens beside it (`Encoding.rest`), by default the usual ones."""
        if rest is None and (usual := self.quantiser.usual_rest) is not None:
            rest = usual.expand(len(latent), -1, -1)
        return self.decoder(first, latent if rest is None else torch.cat([latent, rest], 1), valid, text)

    def decode(
        self, first: Tensor, latent: Tensor, valid: Tensor | None = None, *, rest: Tensor | None = None
    ) -> Tensor:
        """Prediction of the second frame: pixels [B, 3, S, S] in [0, 1], or features [B, N, F]."""
        target = self.predict(first, latent, valid, rest=rest).target.float()
        return target.clamp(0, 1) if self.config.pixels else target

    @torch.no_grad()
    def random_codes(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Latents [batch, tokens, latent_dim] of codes drawn at random from the codebook, or, where the quantiser cannot list
        its codes, from those that as many random latents fall on; for continuous models drawn from a normal with the mean
        and deviation of the training latents."""
        shape = (batch, self.config.tokens, self.config.latent_dim)
        device = self.latent_mean.device
        noise = torch.randn(shape, generator=generator).to(device)
        drawn = self.latent_mean + self.latent_std * noise
        if self.quantiser.continuous:
            return drawn
        codebook = self.quantiser.codebook
        if codebook is None:
            was_training = self.quantiser.training
            codebook = self.quantiser.eval()(drawn).quantized.flatten(0, 1)
            self.quantiser.train(was_training)
        choice = torch.randint(len(codebook), shape[:2], generator=generator).to(device)
        return codebook[choice]
