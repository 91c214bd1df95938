"""What a policy is made of, as it is written to config.json and read back. No torch: the command line reads it, too."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from corpora.store.decode import decode
from corpora.text import TEXT_FORMAT


@dataclass(frozen=True)
class SmallBackboneConfig:
    """A convolutional image encoder and word embeddings, small enough to train in minutes on a CPU."""

    dim: int = 128
    """Width of a token."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Of the stages; each halves the image."""
    crop: float = 6 / 7
    """Side of the part of the image that is seen: at a random place in training, the centre otherwise."""
    colour: float = 0.0
    """Standard deviation of a random linear change of the colours in training, the same for all images of a sample."""
    keypoints: int = 32
    """Spatial softmax coordinates (Levine et al. 2016) that one more token of each image carries."""
    summaries: int = 4
    """Further tokens of each image that are a linear map of its whole grid, as the flattened features of plain behaviour
    cloning are: attention from scratch finds a place more slowly than one matrix does."""
    direct: int = 0
    """Width of one vector of each image's keypoints and summaries that is added to the action tokens; attention from scratch finds
    a place later than this path does. 0: none."""
    words: int = 4096
    """Buckets that words are hashed into; no vocabulary has to be kept."""
    max_words: int = 24
    """Longer instructions are cut, which training tells."""
    text_format: Annotated[int, tyro.conf.Suppress] = TEXT_FORMAT
    """How texts are made into words; policies of before 2 go on reading as they learned to."""
    cameras: int = 4
    """Most cameras."""
    history: int = 4
    """Most frames of history."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.crop <= 1:
            raise ValueError(f"crop {self.crop}: must be within 0.5 and 1, a share of the image's side")
        if not 0 <= self.colour <= 1:
            raise ValueError(f"colour {self.colour}: must be within 0 and 1, in units of half the range of a pixel")
        if not self.channels or min(self.channels) < 8:
            raise ValueError(f"channels {self.channels}: one stage or more, each of at least 8")


@dataclass(frozen=True)
class VlmConfig:
    """A Hugging Face vision-language model as System 2."""

    name: str = ""
    """On the hub, or a folder; empty: the `small` backbone."""
    layer: int = 12
    """Hidden states of this layer are read; those above are cut off."""
    self_attention_layers: int = 0
    """Layers of self-attention over its tokens before the DiT (N1.5: 4)."""
    project_to: int = 0
    """A linear layer to this width before the DiT (N1: 1536); 0: none."""
    layer_norm: bool = True
    """A layer norm before the DiT (N1.5 and later)."""
    prompt: Literal["chat", "groot"] = "chat"
    """chat: the instruction as it stands, in a turn that the model is to answer; groot (N1.6, N1.7): in small letters without
    punctuation, and no answer is asked for."""


@dataclass(frozen=True)
class VisionConfig:
    """A frozen vision model (DINOv2, DINOv3, SigLIP2 and so on) whose patch tokens are read instead of images."""

    name: str = ""
    """On the hub, or a folder; empty: none."""
    components: int = 0
    """Principal components that its features are reduced to, those of the first dataset's images; 0: all features."""
    bfloat16: bool = False
    """It computes in bfloat16, in training and in acting: four times as fast on CPUs with AVX512-BF16, features off by 1%."""
    noise: float = 0.2
    """Standard deviation of the noise on its features in training, in units of each token's own: kept features cannot be those of
    a random crop."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 2:
            raise ValueError(f"vision.noise {self.noise}: within 0 and 2")
        if self.components < 0:
            raise ValueError(f"vision.components {self.components}: at least 1, or 0 for all features")


@dataclass(frozen=True)
class DitConfig:
    """Size and layout of the transformer."""

    layers: int = 16
    """Blocks; even ones cross-attend."""
    heads: int = 32
    """Attention heads."""
    head_dim: int = 48
    """Width of a head; the transformer is heads x head_dim wide."""
    output_dim: int = 1024
    """Width of what the action decoders read."""
    dropout: float = 0.2
    """In training, within the MLP and after it, and twice after attention, as GR00T has it."""
    cross: Literal["all", "alternate"] = "all"
    """all: cross-attention sees every token; alternate (N1.6, N1.7): text and image tokens in turn."""
    future_layer: int = -1
    """Future tokens are read after this many blocks (FLARE: 6 of 8); -1: after the last."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "output_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"dit.{name} {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dit.dropout {self.dropout}: must be within 0 and 1")
        if self.future_layer != -1 and not 1 <= self.future_layer <= self.layers:
            raise ValueError(f"dit.future_layer {self.future_layer}: must be -1 or within 1 to {self.layers}")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class FlowConfig:
    """How times are drawn in training, and how many steps sampling takes."""

    time: Literal["n1", "n1_6"] = "n1"
    """n1: t = (s - b) / s, of GR00T N1 and N1.5; n1_6: t = (1 - b) s, of N1.6 and N1.7; b from Beta(alpha, beta), s = 0.999."""
    alpha: float = 1.5
    """Of the Beta distribution: above 1 more of the training falls on noisy chunks (small t)."""
    beta: float = 1.0
    """Of the Beta distribution."""
    buckets: int = 1000
    """The network reads the time as int(t x buckets)."""
    steps: int = 4
    """Euler steps of sampling."""
    temperature: float = 1.0
    """Scale of the noise that sampling begins with: 1 draws from what was learned, 0 predicts the conditional mean, which leaves
    the noise of noisy demonstrations out."""
    middle: float = 0.0
    """Zero-noise fraction: share of the draws whose noise and time are 0, so that their velocity is the whole chunk: regression,
    which is what sampling with temperature 0 begins with; drawn noise is never zero. Of several draws it must be a whole
    number of them."""
    draws: int = 1
    """Times and noises drawn for each sample of a batch: System 2 runs once for all of them, which is cheap training
    where it costs more than the DiT."""

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.beta <= 0:
            raise ValueError(f"alpha {self.alpha}, beta {self.beta}: both must be above 0")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature}: must be at least 0")
        if not 0 <= self.middle <= 1:
            raise ValueError(f"middle {self.middle}: within 0 and 1, a share of the draws")
        for name in ("buckets", "steps", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        share = self.middle * self.draws
        if self.draws > 1 and abs(share - round(share)) > 1e-4:
            choices = sorted({int(share) / self.draws, (int(share) + 1) / self.draws})
            raise ValueError(
                f"middle {self.middle} of {self.draws} draws is {share:g} of them, and must be a whole number; choose middle "
                f"{choices[0]:.6g} or {choices[1]:.6g}, or other draws"
            )


@dataclass(frozen=True)
class WorldConfig:
    """Head world_action: the picture that is denoised beside a chunk of actions, and what its tokens are."""

    future_s: float = 0.8
    """Seconds from now to the picture that ends a block: about as long as the chunk."""
    weight: float = 1.0
    """Of the picture's loss beside the actions'."""
    times: Literal["block", "flash"] = "flash"
    """block: picture and actions of a block have one flow time, as `flow` draws it; flash: the picture's is biased to noise, 1 - b
    with b from Beta(picture_alpha, 1), and the actions' is drawn on its own, so that one step does."""
    picture_alpha: float = 3.0
    """Of that Beta distribution (DreamZero: 3, a mean time of 0.25)."""
    picture_end: float = 0.2
    """Flow time that sampling brings the picture to while the actions come to 1: 1 denoises both, less leaves the picture near
    noise (flash; DreamZero: 0.2)."""
    widths: tuple[int, ...] = (32, 48, 64)
    """Of the autoencoder's stages; each halves the image, and one more that makes the tokens."""
    channels: int = 48
    """Of its picture tokens."""
    steps: int = 800
    """Optimiser steps of the training's first stage, which trains the autoencoder alone."""
    images: int = 48
    """That a step of it sees, at most."""
    lr: float = 5e-3
    """Its peak learning rate."""

    def __post_init__(self) -> None:
        if not self.future_s > 0:
            raise ValueError(f"world.future_s {self.future_s}: above 0 seconds, e.g. 0.8")
        if self.weight < 0 or self.picture_alpha <= 0 or self.lr <= 0:
            raise ValueError(
                f"world.weight {self.weight}, picture_alpha {self.picture_alpha}, lr {self.lr}: at least 0, and above 0"
            )
        if not 0 <= self.picture_end <= 1:
            raise ValueError(f"world.picture_end {self.picture_end}: a flow time within 0 (noise) and 1 (picture)")
        if not self.widths or any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"world.widths {self.widths}: one or more, each a multiple of 8")
        for name in ("channels", "steps", "images"):
            if getattr(self, name) < 1:
                raise ValueError(f"world.{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class PolicyConfig:
    """A policy's parts and sizes. What belongs to one robot (dimensions, statistics, rates) is in its `Embodiment`."""

    head: str = "flow"
    """flow: the dual system; regression: plain convolutional behaviour cloning, the baseline `bc`; world_action: future picture
    and actions denoised together; or one that was registered (vla/checkpoint.py)."""
    image_size: int = 84
    """Height and width of the images that come in."""
    history_s: tuple[float, ...] = (0.0,)
    """Ages of the frames that are seen, in seconds, oldest first; 0 is the present one."""
    horizon: int = 16
    """Steps of an action chunk."""
    max_state_dim: int = 64
    """Width that states are padded to."""
    max_action_dim: int = 32
    """Width that actions are padded to."""
    feeding: bool = False
    """Head regression: latents and FLARE's future are outputs of the trunk that the action is read from, too."""
    future_tokens: int = 0
    """Learned tokens in the DiT's sequence (N1.5 and FLARE: 32)."""
    state_dropout: float = 0.0
    """Share of training samples whose state is hidden, so that images are looked at."""
    hidden_state: Literal["masked", "token", "zero"] = "masked"
    """In the place of a state that is hidden or not there: nothing, a learned token (N1.6), or a token of zeros, which is looked at
    (N1.7)."""
    padded: Literal["zero", "noise"] = "zero"
    """What System 1 sees of the action's dimensions that a robot does not have: zero, or noise like the others' (GR00T)."""
    slots: int = 32
    """Embodiments that there is room for (GR00T: 32)."""
    hidden: int = 1024
    """Inner width of the state encoders and action decoders."""
    small: SmallBackboneConfig = field(default_factory=SmallBackboneConfig)
    """The backbone where `vlm` names none."""
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """A vision-language model as the backbone."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """A frozen vision model as the backbone; `small` reads its tokens, and the instruction."""
    dit: DitConfig = field(default_factory=DitConfig)
    """System 1."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Its objective and sampler."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """What head world_action has beside actions."""

    def __post_init__(self) -> None:
        for name in ("image_size", "horizon", "max_state_dim", "max_action_dim", "hidden", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.future_tokens < 0:
            raise ValueError(f"future_tokens {self.future_tokens}: must be at least 0")
        if not 0 <= self.state_dropout < 1:
            raise ValueError(f"state_dropout {self.state_dropout}: must be within 0 and 1")
        ages = list(self.history_s)
        if not ages or ages != sorted(set(ages), reverse=True) or ages[-1] != 0:
            raise ValueError(f"history_s {self.history_s}: ages in seconds, oldest first, the last 0; e.g. 1.0 0.5 0")
        if self.feeding and self.head != "regression":
            raise ValueError(f"feeding with head '{self.head}': only the outputs of head 'regression' feed its action")
        if self.head == "regression" and self.vlm.name:
            raise ValueError("head 'regression' is the plain convolutional baseline: it takes no vlm.name")
        if self.head == "world_action" and self.vlm.name:
            raise ValueError("head 'world_action' sees pictures by tokens of their own: it takes no vlm.name")
        if self.vision.name and self.vlm.name:
            raise ValueError(f"vision.name '{self.vision.name}' and vlm.name '{self.vlm.name}': one backbone, not two")


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """Sizes of the model, and how its training images vary."""

    image_size: int = 84
    """Height and width of the images that come in."""
    horizon: int = 16
    """Steps of a chunk; the second image is seen this many steps after the first."""
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Of the convolutions; each halves the image."""
    hidden: int = 256
    """Width of the MLP."""
    crop: float = 6 / 7
    """Side of the part of the images that is seen: at a random place in training, the centre otherwise."""
    light: float = 0.2
    """Largest change of brightness (share of the range) and of contrast in training, the same for both images."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.hidden < 1:
            raise ValueError(f"horizon {self.horizon}, hidden {self.hidden}: at least 1")
        if not self.channels or any(width < 8 or width % 8 for width in self.channels):
            raise ValueError(f"channels {self.channels}: one or more, each a multiple of 8")
        if not 0.5 <= self.crop <= 1:
            raise ValueError(f"crop {self.crop}: within 0.5 and 1, a share of the image's side")
        if not 0 <= self.light < 1:
            raise ValueError(f"light {self.light}: within 0 and 1, e.g. 0.2")
        if self.image_size * self.crop < 2 ** len(self.channels):
            raise ValueError(f"image_size {self.image_size}: too small to be halved {len(self.channels)} times")


def to_dict(config: PolicyConfig) -> dict[str, Any]:
    """As JSON has it."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> PolicyConfig:
    """The inverse of `to_dict`, also after JSON. Raises ValueError for a field that this version does not know."""
    if isinstance(small := values.get("small"), dict):  # what does not say so is older than it
        values = {**values, "small": {"text_format": 1, **small}}
    return decode(PolicyConfig, values, what="policy configuration")
