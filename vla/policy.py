"""What a policy is, whatever is inside: it encodes what it sees (System 2), learns chunks of actions, and acts on robots.

A head (vla/models) is a subclass of `Policy` that is registered by the name that its configuration gives; `vla.checkpoint`
keeps it on disk and on the hub. What other rooms ask of a policy is asked here, never by its class.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from corpora.mixture.embodiments import SLOTS
from corpora.store.told import unknown_robot
from corpora.text import ReadText
from vla.batch import PolicyBatch, pad_last
from vla.embodiment import Embodiment
from vla.evaluating import evaluating
from vla.first_stage import FirstStage
from vla.noise import NoiseKey
from vla.observation import ActionChunk, Observation
from vla.trained_on import TrainedOn

log = logging.getLogger(__name__)

HEAD_WEIGHTS = "head_weights"
"""Key of `Policy.measured`: the published model that System 1 began with, by its name on the hub."""
TEXTS_HEARD = 1000
"""Of which it is remembered that they were looked at."""


@dataclass(frozen=True)
class ContextTokens:
    """Vision-language tokens of B samples."""

    features: Tensor
    """[B, N, D]."""
    mask: Tensor
    """bool [B, N]; True for a real token, False for padding."""
    is_image: Tensor
    """bool [B, N]; True for a token of an image."""
    direct: Tensor | None = None
    """[B, D]: where things are in the images, in one vector, which action tokens read without attention; None where the
    backbone has none."""

    def __post_init__(self) -> None:
        for name in ("mask", "is_image"):
            value = getattr(self, name)
            if value.shape != self.features.shape[:2] or value.dtype != torch.bool:
                raise ValueError(
                    f"{name} {value.dtype} {list(value.shape)}: must be bool {list(self.features.shape[:2])}, as features"
                )


class Backbone(nn.Module, ABC):
    """A vision-language model that is read as tokens: System 2."""

    dim: int
    """Width of a token."""

    @abstractmethod
    def forward(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """`images` uint8 [B, V, T, 3, S, S], `image_mask` bool [B, V, T], B instructions."""

    @property
    def frame_encoder(self) -> nn.Module | None:
        """uint8 [B, 3, S, S] -> tokens [B, N, D] of frames alone; None where the backbone has no such part."""
        return None

    @property
    def is_constant(self) -> bool:
        """Whether it says the same of a sample at every step of a training, so that its tokens may be kept on disk."""
        return False

    def fit(self, images: Callable[[], Sequence[Tensor]]) -> None:
        """What is set before a training by some of its images, each uint8 [V, T, 3, S, S]; most set nothing, and do not ask."""

    @property
    def direct_dim(self) -> int:
        """Width of `ContextTokens.direct`; 0 where there is none."""
        return 0

    def set_trainable(self, *, vision: bool, top_layers: int) -> None:
        """Which weights take gradients: those that see, and the top of the language layers. Raises ValueError for layers that
        are not there; a backbone without such parts is trained whole, or not."""
        if top_layers:
            raise ValueError(
                f"vlm_top_layers {top_layers}: a {type(self).__name__} has no language layers; set vision to train all of it"
            )
        self.requires_grad_(vision)

    def read_text(self, instruction: str) -> ReadText | None:
        """What it reads of an instruction; None where it does not say."""
        return None

    @property
    def reads_text(self) -> bool:
        """Whether what it says depends on the instruction."""
        return True

    def patches(self, image_size: int) -> int | None:
        """Of an image of so many pixels, where its tokens are those of all images and nothing else; None: they are not."""
        return None

    def describe(self) -> Any:
        """What, for JSON, beside the weights, decides what it says: a part of the key of kept tokens."""
        return repr(getattr(self, "config", ""))

    def save_settings(self, folder: Path) -> None:
        """Writes what is needed to build it again, without weights, to `folder`; nothing where the policy's configuration is
        enough."""


@dataclass(frozen=True)
class PictureLoss:
    """Of what is seen next; `weight`: beside the actions' loss."""

    loss: Tensor
    """[B]; 0 where nothing follows (`has_future` bool [B])."""
    has_future: Tensor
    weight: float


@dataclass(frozen=True)
class PolicyLoss:
    """Of one training batch."""

    action_loss: Tensor
    """[B]: mean square error over the known entries of each sample; 0 where none is known."""
    has_action: Tensor
    """bool [B]."""
    future_states: Tensor | None
    """[B, K, M, W]: the future tokens' states for each of K flow draws; None without future tokens."""
    tokens: ContextTokens
    """Of System 2."""
    picture: PictureLoss | None = None
    """None where a policy predicts no picture."""


class PolicySizes(Protocol):
    """What every policy's configuration says."""

    @property
    def image_size(self) -> int: ...
    @property
    def history_s(self) -> tuple[float, ...]: ...
    @property
    def horizon(self) -> int: ...
    @property
    def max_state_dim(self) -> int: ...
    @property
    def max_action_dim(self) -> int: ...
    @property
    def slots(self) -> int: ...


class Store(Protocol):
    """How policies are kept; vla/checkpoint.py is the only one."""

    def save(self, policy: Policy, folder: Path) -> None: ...
    def load(self, name: str | Path, **where: Any) -> Policy: ...


class Policy(nn.Module, PyTorchModelHubMixin, ABC):
    """A policy that answers an observation by a chunk of actions. `save_pretrained` and `push_to_hub` are the hub's mixin's."""

    store: ClassVar[Store]
    tunable: ClassVar[bool] = False
    """Whether parts of it may be trained alone: it has `backbone`, `projector`, `embodiment_layers` and `dit`."""
    sampler: ClassVar[bool] = False
    """Whether chunks are sampled in `config.flow.steps` passes."""
    most_views: tuple[int, int] | None = None
    """Most cameras, and frames of history, that it has places for; None: any number."""

    def __init__(self, config: PolicySizes) -> None:
        super().__init__()
        self.config: Any = config
        if config.slots < len(SLOTS):
            raise ValueError(f"slots {config.slots}: at least {len(SLOTS)}, for {', '.join(SLOTS)}")
        self.slots = list(SLOTS)
        """Names of the embodiments that there are weights for; embodiment_id n is the nth name's."""
        self.embodiments: dict[str, Embodiment] = {}
        """Name -> what is known of the robot; filled by training."""
        self.measured: dict[str, Any] = {}
        """What was measured of this policy; its model card shows it."""
        self.trained_on: tuple[TrainedOn, ...] = ()
        """Datasets of its trainings, the last ones last; of an older giza none."""
        self._heard: set[str] = set()

    @abstractmethod
    def encode(self, images: Tensor, image_mask: Tensor, instruction: Sequence[str]) -> ContextTokens:
        """System 2: tokens of uint8 [B, V, T, 3, S, S], bool [B, V, T] and B instructions."""

    @abstractmethod
    def loss(self, batch: PolicyBatch) -> PolicyLoss:
        """Losses of a batch. Raises ValueError where its shapes do not fit."""

    @abstractmethod
    def sample(
        self,
        tokens: ContextTokens,
        state: Tensor,
        state_mask: Tensor,
        embodiment_id: Tensor,
        action_dim: int,
        noise: Sequence[NoiseKey] | None = None,
    ) -> Tensor:
        """System 1: encoded actions [B, H, max_action_dim] for encoded, padded states [B, Ds] and int64 [B]. `noise`: what a policy
        that has some draws it by, a key for each sample; without keys it is new each time."""

    def name_embodiments(self, names: Sequence[str]) -> None:
        """Names all anew, as they were when weights were saved. Raises ValueError where there are more than weights."""
        if len(names) > self.config.slots:
            raise ValueError(f"{len(names)} embodiments: this policy has weights for at most {self.config.slots}")
        self.slots = list(names)

    def embodiment_id(self, name: str) -> int:
        """The place of an embodiment's weights. Raises ValueError where there are none."""
        if name not in self.slots:
            raise ValueError(
                f"embodiment '{name}': this policy does not know it; it has {', '.join(self.slots)}. Add it with "
                f"add_embodiment('{name}', start_from=...) or giza ground --embodiment {name} --start-from NAME"
            )
        return self.slots.index(name)

    def add_embodiment(self, name: str, *, start_from: str | None = None) -> int:
        """The embodiment_id of a new robot, whose weights begin as those of `start_from` where it is given; a name that is there
        keeps its place. Raises ValueError where `start_from` is unknown, and where no weights are free."""
        source = None if start_from is None else self.embodiment_id(start_from)
        if name not in self.slots:
            if len(self.slots) >= self.config.slots:
                raise ValueError(
                    f"embodiment '{name}': all {self.config.slots} places are taken; use the name of one that is not needed: "
                    f"{', '.join(self.slots)}"
                )
            self.slots.append(name)
        target = self.slots.index(name)
        if source is not None:
            self._copy_embodiment(source, target)
        return target

    def _copy_embodiment(self, source: int, target: int) -> None:
        """Copies the weights that belong to one embodiment; nothing where all share all."""

    @property
    def system2(self) -> Backbone | None:
        """What makes the tokens, where it is a part of its own."""
        return None

    def read_text(self, instruction: str) -> ReadText | None:
        """What it reads of an instruction; None where it does not say."""
        return None if self.system2 is None else self.system2.read_text(instruction)

    def tell_cut(self, instruction: Sequence[str]) -> None:
        """Warns, once a text, of instructions that are longer than what is read of them."""
        for text in set(instruction) - self._heard:
            if len(self._heard) >= TEXTS_HEARD:
                self._heard.clear()
            self._heard.add(text)
            seen = self.read_text(text)
            if seen is not None and seen[1]:
                log.warning("the policy reads %d tokens of '%s' and cuts the last %d", len(seen[0]), text, seen[1])

    @property
    def frame_encoder(self) -> nn.Module | None:
        """uint8 [B, 3, S, S] -> tokens [B, N, D], what FLARE's targets are copied from; None where there is none."""
        return None if self.system2 is None else self.system2.frame_encoder

    @property
    def future_tokens(self) -> int:
        """M: learned tokens whose states FLARE aligns with the future; 0 where there are none."""
        return 0

    @property
    def future_width(self) -> int:
        """W: width of these states; 0 where there are none."""
        return 0

    @property
    def first_stage(self) -> FirstStage | None:
        """What is to be trained before the rest; None where nothing is, or it is done."""
        return None

    @property
    def future_s(self) -> float | None:
        """Seconds to the picture that it learns to predict; None where it does not."""
        return None

    def measure(self, batch: PolicyBatch) -> dict[str, Tensor]:
        """[B] each: what else is told of held-out samples, NaN where it is not of one."""
        return {}

    @property
    def passes(self) -> int:
        """Of System 1 for one chunk: the steps of its sampler, if it has one."""
        return self.config.flow.steps if self.sampler else 1

    def sample_in(self, passes: int) -> None:
        """From now on chunks are sampled in so many passes. Raises ValueError for fewer than 1, and where there is no sampler."""
        if passes < 1 or not self.sampler:
            raise ValueError(f"passes {passes}: at least 1, of a policy with a sampler")
        self.config = replace(self.config, flow=replace(self.config.flow, steps=passes))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def embodiment(self, name: str = "") -> Embodiment:
        """By name; without one the only embodiment. Raises ValueError where there is none, or several and no name."""
        if not name and len(self.embodiments) == 1:
            return next(iter(self.embodiments.values()))
        if name not in self.embodiments:
            raise ValueError(unknown_robot(name, self.embodiments))
        return self.embodiments[name]

    def act(self, observation: Observation, embodiment: str = "", *, noise: NoiseKey | None = None) -> ActionChunk:
        """What `embodiment` (default: the only one) should do next. Raises ValueError where the observation does not fit it.

        `noise`: the same key, the same actions; without one a policy that has noise draws it anew each time.
        """
        known = self.embodiment(embodiment)
        images, mask = self._images(observation, known)
        state = None if observation.state is None else np.asarray(observation.state)[None]
        keys = None if noise is None else [noise]
        actions = self.act_batch(images, mask, [observation.instruction], state, known.name, noise=keys)
        return ActionChunk(actions[0], known.step_s)

    @torch.no_grad()
    def act_batch(
        self,
        images: Tensor,
        image_mask: Tensor,
        instruction: Sequence[str],
        state: NDArray[np.floating[Any]] | None,
        embodiment: str,
        *,
        noise: Sequence[NoiseKey] | None = None,
    ) -> NDArray[np.float32]:
        """Raw actions float32 [B, H, Da] for uint8 [B, V, T, 3, S, S], bool [B, V, T] and raw states [B, Ds]. Like `act` and
        `act_on` in evaluation mode, whatever the mode is."""
        self.tell_cut(instruction)
        with evaluating(self):
            tokens = self.encode(images.to(self.device), image_mask.to(self.device), instruction)
            return self.act_on(tokens, state, embodiment, noise=noise)

    @torch.no_grad()
    def act_on(
        self,
        tokens: ContextTokens,
        state: NDArray[np.floating[Any]] | None,
        embodiment: str,
        *,
        noise: Sequence[NoiseKey] | None = None,
    ) -> NDArray[np.float32]:
        """As `act_batch`, from tokens that System 2 made before."""
        known = self.embodiment(embodiment)
        space, size = known.action_space, len(tokens.features)
        if state is None and space.state_dim and not self.config.state_dropout:
            raise ValueError(
                f"no state: '{known.name}' has one of {space.state_dim} numbers ({', '.join(space.state_names[:8])}), without "
                "which this policy did not learn to act; give it"
            )
        if state is None:
            encoded = torch.zeros(size, self.config.max_state_dim)
            state_mask = torch.zeros(size, self.config.max_state_dim, dtype=torch.bool)
        else:
            state = np.asarray(state, np.float32)  # as datasets have it
            encoded, state_mask = pad_last(torch.from_numpy(space.encode_state(state)), self.config.max_state_dim)
        embodiment_id = torch.full((size,), self.embodiment_id(known.name), device=self.device)
        width = space.encoded_action_dim
        states = encoded.to(self.device), state_mask.to(self.device)
        with evaluating(self):
            actions = self.sample(tokens, *states, embodiment_id, width, noise)
        return space.decode_action(state, actions[..., :width].float().cpu().numpy())

    def _images(self, observation: Observation, known: Embodiment) -> tuple[Tensor, Tensor]:
        """uint8 [1, V, T, 3, S, S] and bool [1, V, T], in the order of the embodiment's cameras."""
        images, mask = observation.seen_by(known, self.config.history_s, self.config.image_size)
        return torch.from_numpy(images)[None], torch.from_numpy(mask)[None]

    def _save_pretrained(self, save_directory: Path) -> None:
        self.store.save(self, Path(save_directory))

    @classmethod
    def from_pretrained(cls, name: str | Path, **where: Any) -> Policy:  # type: ignore[override]
        """From a folder, or from the hub by name; `where` goes on to the hub: revision, cache_dir, local_files_only, token,
        force_download. Raises ValueError where there is no policy."""
        return cls.store.load(name, **where)
