"""What a latent action model is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from corpora.store.decode import decode
from lapa.model.kinds import BLOCKS, CONDITIONS, POOLS, QUANTISERS, WAYS_IN
from lapa.pairs.config import PairConfig


@dataclass(frozen=True)
class QuantiserConfig:
    """How latents become codes. A registered quantiser with fields of its own subclasses this (see `Quantiser.Config`)."""

    kind: str = "vq"
    """nsvq: noise substitution (Vali and Backstrom 2022, as LAPA uses it); vqvae: a codebook that gradients move
    (UniVLA); vq, rvq, fsq: vector-quantize-pytorch; kl, gaussian: a variational bottleneck, whose variance the mean or
    the encoder tells; none: no bottleneck but the dimension; or a name given to lapa.model.quantisers.register."""
    codebook_size: int = 16
    """Codes per token; with fsq the nearest product of its levels."""
    levels: int = 2
    """Stages of the residual quantiser (rvq)."""
    commitment: float = 0.25
    """Weight of the pull of encodings to their codes (vqvae, vq, rvq)."""
    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term (kl, gaussian); AdaWorld has 2e-4 where an image's error counts once, not 100 times."""
    compand: bool = False
    """Quantise centred latents whose length is compressed to log(1 + length): motion is heavy-tailed, and without it most
    codes go to the few largest motions."""
    expire_below: float = 0.1
    """A code used less than this share of its fair share (1 / codebook_size), on a running mean, is replaced."""
    decay: float = 0.99
    """Running mean of code usage and of the codes of vq and rvq, per step."""

    def __post_init__(self) -> None:
        QUANTISERS.check(self.kind)
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size {self.codebook_size}: a codebook holds at least 2 codes")
        if not 0 <= self.expire_below < 1:
            raise ValueError(f"expire_below {self.expire_below}: a share of the fair share, in [0, 1)")


@dataclass(frozen=True)
class LamConfig:
    """What a latent action model is made of."""

    pair: PairConfig = field(default_factory=PairConfig)
    """What a pair of frames is."""
    patch: int = 8
    """Side of a patch (pixel target); with a feature target the frozen model's own patches are used."""
    dim: int = 128
    """Width of the transformer."""
    heads: int = 4
    """Attention heads."""
    stem: Literal["conv", "patch"] = "conv"
    """conv: overlapping strided convolutions; patch: LAPA's linear patches."""
    input: str = "additive"
    """both: two frames, the second's tokens are read; difference: e2 - e1, then pooled; lapa: each frame pooled, then
    subtracted (LAPA); action_token: a learned token beside each frame's patches, the second frame's is read
    (DreamDojo); task_tokens: several such (UniVLA; it alone has a stage 2); como: first frame and feature difference,
    the future frame itself removed; change: the difference of the images (with `pair.flow` input, optical flow beside
    it), nothing else; additive: g(second) - g(first), so that two steps add up to one; motion: half of the tokens by
    change, half by additive."""
    spatial_depth: int = 1
    """Transformer layers over space in the encoder (action_token, task_tokens: over space and time)."""
    temporal_depth: int = 0
    """Transformer layers over time (causal) in the encoder."""
    blocks: str = "plain"
    """Transformer layers. plain: dot-product attention, causal over time; lapa: LAPA's, with queries and keys of unit length,
    seen both ways in time."""
    position: Literal["learned", "peg"] = "learned"
    """learned embeddings; peg: depthwise convolutions and relative bias (LAPA)."""
    shared_stem: bool = False
    """The decoder reads the first frame by the encoder's stem, which it does not move, and position bias (LAPA)."""
    pool: str = "keypoints"
    """From patches to latent tokens. flatten: one linear map of all; conv: strided convolutions; lapa: LAPA's, the last of them
    not strided; queries: learned queries; keypoints: where each of many learned features is (spatial softmax), so that
    latents are linear in positions."""
    tokens: int = 4
    """Latent tokens of a pair; in stage 2 the task-centric ones, beside which there are as many of stage 1's."""
    latent_dim: int = 32
    """Dimensions of a latent token."""
    quantiser: QuantiserConfig = field(default_factory=lambda: QuantiserConfig(compand=True, expire_below=0.5))
    """How latents become codes."""
    quantised_share: float = 0.2
    """Share of a training batch whose decoder sees codes; the rest sees the continuous latent, which keeps what codes
    cannot hold. 1.0 for LAPA and UniVLA."""
    code_gradient: bool = False
    """Whether the codebook's choice shapes the encoder (LAPA, UniVLA: yes). Without, codes are read off the continuous latent
    and leave it alone."""
    latent_noise: float = 0.0
    """Standard deviation of noise on the continuous latent in training; keeps it smooth and of bounded size."""
    decoder_depth: int = 2
    """Transformer layers of the decoder."""
    condition: str = "add"
    """How the decoder sees the latent. add: a map added to the first frame's patches; cross: cross-attention; lapa: the same
    with the latent's numbers in LAPA's order; prepend: tokens in front of the patches; task_tokens: the same as UniVLA
    has it; broadcast: one map added to each patch (DreamDojo)."""
    residual: bool = True
    """The decoder predicts the change of the first frame instead of the second frame."""
    target: str = "pixels"
    """pixels, or a Hugging Face vision model by name, whose frozen features are input and target."""
    flow_weight: float = 1.0
    """Weight of predicting the pair's optical flow beside the target; 0 switches it off."""
    text_model: str = ""
    """Language condition of the decoder, and of an encoder that reads text (UniVLA's stage 1): a Hugging Face text
    encoder by name; empty for none."""
    text_dim: int = 768
    """Width of the text encoder's output."""
    stage: Literal[1, 2] = 1
    """UniVLA: 1 learns codes for what the text does not explain; 2 freezes them and learns task-centric codes beside."""
    label_dim: int = 0
    """Dimensions of known actions for the few-label head (LAOM); 0 for none."""
    feature_dim: int = 768
    """Width of the frozen model's features (feature targets)."""
    feature_patches: int = 256
    """Patches of the frozen model per frame (feature targets); a square number."""

    def __post_init__(self) -> None:
        for registry, name in (
            (WAYS_IN, self.input),
            (BLOCKS, self.blocks),
            (POOLS, self.pool),
            (CONDITIONS, self.condition),
        ):
            registry.check(name)
        for size in self.pair.shape:
            if size % self.patch:
                raise ValueError(f"image_size {size} is no multiple of patch {self.patch}: choose one that is")
        if self.tokens < 1 or self.latent_dim < 1:
            raise ValueError(f"tokens {self.tokens} x latent_dim {self.latent_dim}: both must be at least 1")
        if not 0 < self.quantised_share <= 1:
            raise ValueError(f"quantised_share {self.quantised_share}: a share in (0, 1]")
        if not self.pixels and self.pair.flow != "none":
            raise ValueError(f"target '{self.target}': optical flow needs pixels; set pair.flow none and flow_weight 0")
        if self.stage == 2 and self.text_model:
            raise ValueError(
                f"stage 2 with text_model '{self.text_model}': its codes are to hold what the text told stage 1; "
                "set text_model ''"
            )
        if self.flow_weight and self.pair.flow == "none":
            raise ValueError(
                f"flow_weight {self.flow_weight} with pair.flow none: set pair.flow target, or flow_weight 0"
            )
        if not self.flow_weight and self.pair.flow == "target":
            raise ValueError("flow_weight 0 with pair.flow target: nothing reads the flow; set pair.flow none")
        if not self.pixels and math.isqrt(self.feature_patches) ** 2 != self.feature_patches:
            raise ValueError(f"{self.feature_patches} patches are no square grid: choose another model or image_size")

    @property
    def pixels(self) -> bool:
        """Whether images themselves are predicted."""
        return self.target == "pixels"

    @property
    def sees_flow(self) -> bool:
        """Whether the encoder needs the pair's optical flow."""
        return self.pair.flow == "input" and bool(WAYS_IN[self.input].sees_flow)

    @property
    def needs_text(self) -> bool:
        """Whether the encoder reads the instruction beside the frames."""
        return bool(self.text_model) and bool(WAYS_IN[self.input].sees_text)

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return math.prod(self.grid)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        if not self.pixels:
            return math.isqrt(self.feature_patches), math.isqrt(self.feature_patches)
        height, width = self.pair.shape
        return height // self.patch, width // self.patch

    @property
    def latent_size(self) -> int:
        """Numbers in the flattened continuous latent of a pair."""
        return self.tokens * self.latent_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LamConfig:
        """From `dataclasses.asdict`, as JSON keeps it; also of before the fields of a pair were a part of their own.

        Raises ValueError for a field that is unknown or wrong.
        """
        rest = dict(values if "pair" in values else _with_pair(values))
        own = rest.pop("quantiser")
        quantiser = decode(QUANTISERS[own["kind"]].Config, own, what="quantiser of a latent action model")
        return dataclasses.replace(decode(cls, rest, what="latent action model"), quantiser=quantiser)


def _with_pair(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose pair lies flat in it, with `flow_input` for a model that is given the flow."""
    rest = dict(flat)
    pair = {name: rest.pop(name) for name in ("image_size", "gap_s", "extract_gap_s", "camera_compensation")}
    sees_flow = rest.pop("flow_input") and rest["input"] in {"change", "motion"}
    return rest | {"pair": pair | {"flow": "input" if sees_flow else "target" if rest["flow_weight"] else "none"}}
