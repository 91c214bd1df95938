"""The latent action model: an encoder of what happened between two frames, a quantiser, and a decoder that must predict
the second frame from the first and the latent alone.

    first, second --encoder--> latent [B, tokens, dim] --quantiser--> codes --decoder(first)--> second

LAPA, UniVLA, GR00T's latent action model and giza's `small` are settings of this one model (lapa/recipes.py). Shapes: B pairs,
S picture size, N = (S / patch)^2 patches, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lapa.model.config import LamConfig
from lapa.model.decoder import FrameDecoder, Prediction
from lapa.model.encoder import PairEncoder
from lapa.model.quantisers import CompandedQuantiser, NoiseSubstitutionQuantiser, TwoStageQuantiser, build_quantiser
from lapa.pairs.flow import batch_flow
from lapa.pairs.pair import STABILISED

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_STABILISED = "stabilised"
"""Beside the fields of the configuration: which stabilised pictures a model with camera compensation was trained on."""


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


class LatentActionModel(nn.Module):
    """See the module's docstring. Pictures are float [B, 3, S, S] in [0, 1]; with a feature target, `first` and `second` are
    the frozen model's features [B, N, F] (lapa/frozen_features.py makes them)."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: LamConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PairEncoder(config)
        build = TwoStageQuantiser if config.stage == 2 else build_quantiser
        self.quantiser = build(config.quantiser, config.latent_dim)
        self.decoder = FrameDecoder(config)
        self.action_head = nn.Linear(config.latent_size, config.label_dim) if config.label_dim else None
        self.register_buffer("latent_mean", torch.zeros(config.tokens, config.latent_dim))
        self.register_buffer("latent_std", torch.ones(config.tokens, config.latent_dim))

    def encode(
        self, first: Tensor, second: Tensor, valid: Tensor | None = None, *, flow: Tensor | None = None
    ) -> Encoding:
        """What happened between the frames.

        `valid` [B, 1, S, S] in {0, 1} masks what one of the stabilised frames does not show; `flow` is computed where the
        configuration wants it and the caller has none.
        """
        if flow is None and self.config.sees_flow:
            flow = batch_flow(first, second)
        latent = self.encoder(first, second, valid, flow).float()
        quantised = self.quantiser(latent if self.config.code_gradient else latent.detach())
        return Encoding(latent, quantised.quantized, quantised.codes, quantised.loss)

    def predict(
        self, first: Tensor, latent: Tensor, valid: Tensor | None = None, *, text: Tensor | None = None
    ) -> Prediction:
        """The second frame and the flow to it, from the first frame and a latent [B, tokens, latent_dim]."""
        return self.decoder(first, latent, valid, text)

    def decode(self, first: Tensor, latent: Tensor, valid: Tensor | None = None) -> Tensor:
        """Prediction of the second frame: pixels [B, 3, S, S] in [0, 1], or features [B, N, F]."""
        target = self.predict(first, latent, valid).target.float()
        return target.clamp(0, 1) if self.config.pixels else target

    @torch.no_grad()
    def random_codes(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Latents [batch, tokens, latent_dim] of codes drawn at random from the code book; for continuous models drawn
        from a normal with the mean and deviation of the training latents."""
        shape = (batch, self.config.tokens, self.config.latent_dim)
        device = self.latent_mean.device
        noise = torch.randn(shape, generator=generator).to(device)
        drawn = self.latent_mean + self.latent_std * noise
        if not self.config.quantiser.discrete:
            return drawn
        was_training = self.quantiser.training
        self.quantiser.eval()
        book = self._code_book(drawn)
        self.quantiser.train(was_training)
        choice = torch.randint(len(book), shape[:2], generator=generator).to(device)
        return book[choice]

    def _code_book(self, drawn: Tensor) -> Tensor:
        """[codes, latent_dim]: every code of nsvq and vq; of rvq and fsq those that many random latents fall on."""
        quantiser: nn.Module = self.quantiser
        outer = quantiser if isinstance(quantiser, CompandedQuantiser) else None
        inner = quantiser if outer is None else outer.inner
        book: Tensor | None = None
        if isinstance(inner, NoiseSubstitutionQuantiser):
            book = inner.codebook
        elif self.config.quantiser.kind == "vq" and not isinstance(inner, TwoStageQuantiser):
            book = inner.net.codebook  # type: ignore[union-attr, assignment]
        if book is not None:
            return book if outer is None else outer.expand(book)
        return self.quantiser(drawn).quantized.flatten(0, 1)

    def save(self, folder: str | Path) -> None:
        """Writes model.safetensors and config.json, each under a temporary name first; with camera compensation the latter
        says how pictures were stabilised."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        save_file(tensors, folder / (WEIGHTS + ".tmp"))
        values = dataclasses.asdict(self.config)
        if self.config.pair.camera_compensation:
            values[_STABILISED] = STABILISED
        (folder / (CONFIG + ".tmp")).write_text(json.dumps(values, indent=1), "utf-8")
        for name in (WEIGHTS, CONFIG):
            os.replace(folder / (name + ".tmp"), folder / name)


def read_lam_config(folder: str | Path) -> LamConfig:
    """The configuration of a run folder's model.

    Raises ValueError where the folder holds no model, or one that was trained on pictures stabilised in another way: what
    this version would show it is not what its latents were learned from.
    """
    folder = Path(folder).expanduser()
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise ValueError(f"'{folder}' holds no latent action model: train one with giza train-lam --out {folder}")
    values = json.loads((folder / CONFIG).read_text("utf-8"))
    stabilised = values.pop(_STABILISED, None)
    config = LamConfig.from_dict(values)
    if config.pair.camera_compensation and stabilised != STABILISED:
        was = "no number" if stabilised is None else f"number {stabilised}"
        raise ValueError(
            f"'{folder}' holds a latent action model whose camera compensation has {was} of `stabilised`; this version of "
            f"giza stabilises by number {STABILISED}, which gives other pictures: train it again (giza train-lam, another "
            "--out)"
        )
    return config


def load_lam(folder: str | Path, device: str | torch.device = "cpu") -> LatentActionModel:
    """The model of a run folder, in evaluation mode. Raises ValueError as `read_lam_config` does."""
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    model = LatentActionModel(read_lam_config(folder))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(device).eval()


def model_hash(folder: str | Path) -> str:
    """16 hex digits over the weights and the configuration of a run folder."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update((Path(folder).expanduser() / name).read_bytes())
    return digest.hexdigest()[:16]


def initialise_from(model: LatentActionModel, folder: str | Path) -> list[str]:
    """Weights of another run where names and shapes agree; stage 2 takes stage 1's code book as its frozen one and stage
    1's queries as its first ones (UniVLA). Returns the names that were taken. Raises ValueError where none agree."""
    source = load_lam(folder).state_dict()
    own = model.state_dict()
    taken: list[str] = []
    for name, value in source.items():
        target = name.replace("quantiser.", "quantiser.frozen.", 1) if model.config.stage == 2 else name
        if target not in own:
            continue
        if own[target].shape == value.shape:
            own[target] = value
        elif target == "encoder.branches.0.pool.queries" and model.config.stage == 2:
            own[target] = torch.cat([value, own[target][:, value.shape[1] :]], 1)
        else:
            continue
        taken.append(target)
    if not taken:
        raise ValueError(f"'{folder}' shares no weights with this model: give a run of the same recipe")
    model.load_state_dict(own)
    return taken
