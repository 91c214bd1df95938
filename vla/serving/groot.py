"""A policy behind the names and shapes that clients of Isaac-GR00T speak: observation in, named chunks of actions out.

Two forms of observations are read:

- flat (N1, N1.5, and the simulation clients of later ones): {"video.ego_view": uint8 [B, T, H, W, 3],
  "state.arm": [B, T, D], "annotation.human.task_description": [text] * B}, all with or without the batch axis B;
- nested (N1.6 and later): {"video": {"ego_view": ...}, "state": {"arm": ...}, "language": {key: [[text]] * B}}.

T is the number of frames that the policy sees for images, and 1 for states. Frames from before the episode are masked, as in
training: vla/serving/history.py says which those are.
A camera that is not sent is masked too, as in training data that lack it. A policy that learned from painted pictures is told
where the agent is, and the server paints: vla/serving/painted.py.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corpora.video.image import Fit, fit_square
from corpora.video.nearest import rows_back
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.serving.history import frames_there
from vla.serving.modality_layout import ModalityLayout, layout_of
from vla.serving.painted import ServedViews
from vla.serving.server import PolicyServer, ServerConfig
from vla.serving.wire import Dialect, ModalityConfig

log = logging.getLogger(__name__)

MAX_INSTRUCTION = 2000
"""Characters of an instruction: attention over a book would take all memory."""
MAX_BATCH = 16
"""Observations of one request, unless a server is told otherwise."""
MAX_CLIENTS = 4096
"""Whose place in their noise is known; of more, who was served longest ago begins anew."""


@dataclass(frozen=True)
class ParsedObservation:
    """An observation in the policy's own shapes."""

    images: NDArray[np.uint8]
    """[B, V, T, 3, S, S]; zeros where the mask is False."""
    image_mask: NDArray[np.bool_]
    """[B, V, T]; False for frames from before the episode."""
    instruction: list[str]
    """B texts."""
    state: NDArray[np.float32] | None
    """[B, Ds]; None for a policy without states."""
    batched: bool
    """Whether it came with a batch axis."""


class ServedPolicy:
    """What a `PolicyServer` calls."""

    def __init__(
        self,
        policy: Policy,
        embodiment: str,
        layout: ModalityLayout | None = None,
        *,
        fit: Fit | None = None,
        dialect: Dialect = "n1.6",
        seed: int = 0,
        max_batch: int = MAX_BATCH,
    ) -> None:
        """`layout`: names of cameras and parts; default: the policy's. `fit`: how images of another size are made square;
        default: as in training, and stretch where that is not known. `dialect`: which generation of clients
        get_modality_config is written for. Raises ValueError for a robot that the policy does not know, and for another fit
        than its."""
        known = policy.embodiment(embodiment)
        if (was := known.squared_by) and fit not in (None, was):
            raise ValueError(f"fit '{fit}': pictures of '{known.name}' were '{was}' in training; leave it out")
        self.policy, self.embodiment, self.fit = policy, known.name, fit or was or "stretch"
        self.layout = layout_of(known) if layout is None else layout
        self.dialect: Dialect = dialect
        self.seed, self.max_batch = seed, max_batch
        self.step_s = known.step_s
        self._noise: OrderedDict[bytes, NoiseKey] = OrderedDict()
        views = zip(self.layout.cameras, known.cameras, strict=True)
        self.views = ServedViews({name: known.views[camera] for name, camera in views if camera in known.views})
        self._masked: set[str] = set()
        """Cameras of which it was told that they are not sent."""

    def get_action(self, data: Mapping[str, Any], client: bytes = b"") -> Any:
        """The answer to the data of a get_action request, in the form of the request. Noise is the next of `client`'s own.

        Flat data (N1.5): {"action.arm": float32 [H, D] or [B, H, D]}. Data with an "observation" (N1.6): a list of such
        a map (its names without "action." where the observation was nested) and {"step_s", "inference_s"}, seconds.
        Raises ValueError where the observation does not fit the policy.
        """
        envelope = "observation" in data
        observation = data["observation"] if envelope else data
        if not isinstance(observation, dict):
            raise ValueError(f"the observation is a {type(observation).__name__}: must be a map of names to arrays")
        nested = any(isinstance(observation.get(kind), dict) for kind in ("video", "state", "language"))
        options = data.get("options") if envelope else None
        parsed = self.parse(observation, nested=nested, options=options, client=client)
        start = time.perf_counter()
        chunk = self.act(parsed, client)
        info = {"step_s": self.step_s, "inference_s": time.perf_counter() - start}
        parts = {}
        for part in self.layout.action:
            steps = chunk[..., part.start : part.end]
            # GR00T N1.5 squeezes what came without a batch axis, a part of one dimension to [H]: its clients count on it
            steps = steps if parsed.batched else np.squeeze(steps)
            parts[part.name if nested else f"action.{part.name}"] = np.ascontiguousarray(steps)
        return [parts, info] if envelope else parts

    def reset(self, options: Mapping[str, Any] | None = None, client: bytes = b"") -> dict[str, Any]:
        """Starts the noise of `client`'s action chunks anew, from options["seed"] where it is given, and forgets what was seen
        behind its agent. Returns {}."""
        seed = (options or {}).get("seed", self.seed)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ValueError(
                f"reset: seed {seed if isinstance(seed, int) else type(seed).__name__}: must be an integer from 0"
            )
        self._keep(client, NoiseKey(seed))
        self.views.reset(client)
        return {}

    def get_modality_config(self) -> dict[str, ModalityConfig]:
        """Names, and steps relative to the present, of video, state, action and language."""
        config = self.policy.config
        history = [-steps for steps in rows_back(config.history_s, self.step_s)]
        return self.layout.configs(horizon=config.horizon, history=history, dialect=self.dialect)

    def _keep(self, client: bytes, noise: NoiseKey) -> None:
        """The next of a client. All clients begin with the same: who else is served changes nothing, and a client's name in ZMQ
        is new with each connection. One that wants noise of its own resets to a seed of its own."""
        self._noise[client] = noise
        self._noise.move_to_end(client)
        if len(self._noise) > MAX_CLIENTS:
            self._noise.popitem(last=False)

    def act(self, parsed: ParsedObservation, client: bytes = b"") -> NDArray[np.float32]:
        """Raw actions float32 [B, H, Da]. Raises ValueError where the policy gives numbers that no robot should get."""
        images = torch.from_numpy(parsed.images)
        noise = self._noise.get(client, NoiseKey(self.seed))
        with torch.inference_mode():
            acted = self.policy.act_batch(
                images,
                torch.from_numpy(parsed.image_mask),
                parsed.instruction,
                parsed.state,
                self.embodiment,
                noise=[replace(noise, stream=(row,)) for row in range(len(images))],
            )
        self._keep(client, noise.next())
        chunk = np.asarray(acted, np.float32)
        wanted = (len(images), self.policy.config.horizon)
        if chunk.ndim != 3 or chunk.shape[:2] != wanted or chunk.shape[2] < self.layout.action_dim:
            raise ValueError(
                f"the policy gave actions {list(chunk.shape)}: {[*wanted, self.layout.action_dim]} were expected; does "
                "the modality layout belong to this policy?"
            )
        if not np.isfinite(chunk).all():
            raise ValueError("the policy gave actions that are not finite; none is sent to the robot")
        return chunk

    def parse(
        self, observation: Mapping[str, Any], *, nested: bool, options: Any = None, client: bytes = b""
    ) -> ParsedObservation:
        """The observation in the policy's shapes. Raises ValueError naming the key and what it must be."""
        batched, size = True, -1
        images: dict[str, NDArray[np.uint8]] = {}
        whole: dict[str, NDArray[np.uint8]] = {}
        for camera in self._sent(observation, nested):
            name = f"video.{camera}"
            frames = _array(observation, "video", camera, nested)
            if not images:
                batched = nested or frames.ndim != 4
                size = len(frames) if batched and frames.ndim else 1
                if not 1 <= size <= self.max_batch:
                    raise ValueError(
                        f"{name}: {size} observations; 1 to {self.max_batch} are served at once (giza serve --max-batch)"
                    )
            whole[camera] = self._whole(name, frames if batched else frames[None], size)
            images[camera] = self._fitted(whole[camera])
        states = []
        for part in sorted(self.layout.state, key=lambda part: part.start):
            value = _array(observation, "state", part.name, nested)
            states.append(_state(f"state.{part.name}", value if batched else value[None], size, part.width))
        blank = np.zeros_like(next(iter(images.values())))
        shown = np.stack([images.get(camera, blank) for camera in self.layout.cameras], axis=1)
        sent = np.array([camera in images for camera in self.layout.cameras])
        there = frames_there(shown, self.policy.config.history_s, self.step_s, options)
        for place, camera in enumerate(self.layout.cameras):
            if camera in whole and camera in self.views.views:
                frames, how = whole[camera], {"nested": nested, "batched": batched}
                painted = self.views.paint(camera, frames, there, observation, client=client, **how)
                shown[:, place] = self._fitted(painted)
        return ParsedObservation(
            shown * there[:, None, :, None, None, None],
            there[:, None] & sent[None, :, None],
            self._instruction(observation, nested, size),
            np.concatenate(states, axis=1) if states else None,
            batched,
        )

    def _sent(self, observation: Mapping[str, Any], nested: bool) -> list[str]:
        """The policy's cameras that are sent; those that are not are masked, as in training. All of them where there are names
        that the policy does not know, or none at all: then they are misnamed, and what is missing is refused."""
        place = observation.get("video") if nested else observation
        keys = [key for key in place if isinstance(key, str)] if isinstance(place, Mapping) else []
        names = keys if nested else [key.removeprefix("video.") for key in keys if key.startswith("video.")]
        sent = [camera for camera in self.layout.cameras if camera in names]
        if not sent or set(names) - set(sent):
            return list(self.layout.cameras)
        for camera in self.layout.cameras:
            if camera not in sent and camera not in self._masked:
                self._masked.add(camera)
                log.warning("camera '%s' is not sent: it is masked", camera)
        return sent

    def _whole(self, name: str, frames: NDArray[Any], size: int) -> NDArray[np.uint8]:
        """uint8 [B, T, H, W, 3], as it must be."""
        steps, shape = len(self.policy.config.history_s), frames.shape
        if frames.dtype != np.uint8 or frames.ndim != 5 or shape[:2] != (size, steps) or shape[4] != 3:
            raise ValueError(
                f"{name}: {frames.dtype} {list(shape)}: must be uint8 images [{size}, {steps}, height, width, 3] (batch, "
                "frames of history, RGB), the batch axis being optional for flat observations"
            )
        if 0 in shape:
            raise ValueError(f"{name}: {list(shape)}: an image without pixels")
        return frames

    def _fitted(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [B, T, H, W, 3] -> [B, T, 3, S, S]."""
        side, shape = self.policy.config.image_size, frames.shape
        if shape[2:4] != (side, side):
            flat = [fit_square(frame, side, self.fit) for frame in frames.reshape(-1, *shape[2:])]
            frames = np.stack(flat).reshape(*shape[:2], side, side, 3)
        return np.ascontiguousarray(np.moveaxis(frames, -1, 2))

    def _instruction(self, observation: Mapping[str, Any], nested: bool, size: int) -> list[str]:
        """B texts of: a text, or for each observation a text or a list of one text."""
        wanted = self.layout.instruction_key
        if nested:
            place = observation.get("language")
            known = list(place) if isinstance(place, dict) else []
        else:
            place = observation
            known = [
                key for key in observation if isinstance(key, str) and (key == "task" or key.startswith("annotation."))
            ]
        # the key differs between data sets: one that is alone is meant, whatever its name
        key = wanted if wanted in known else known[0] if len(known) == 1 else None
        if key is None or place is None:
            raise ValueError(
                f"the instruction is missing: '{wanted}' {'under language ' if nested else ''}must hold a text"
            )
        value = place[key]
        if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == size:
            value = value.tolist()
        items: Sequence[Any] = [value] * size if isinstance(value, str) else value
        if not isinstance(items, list) or len(items) != size:
            raise ValueError(f"{key}: must be {size} text(s), one for each observation")
        texts = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in items]
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"{key}: a {type(text).__name__} in the place of a text")
            if len(text) > MAX_INSTRUCTION:
                raise ValueError(f"{key}: {len(text)} characters; at most {MAX_INSTRUCTION}")
        return texts


def server_of(
    policy: Policy,
    embodiment: str = "",
    config: ServerConfig | None = None,
    *,
    modality: Mapping[str, Any] | None = None,
    fit: Fit | None = None,
    dialect: Dialect = "n1.6",
    seed: int = 0,
    max_batch: int = MAX_BATCH,
) -> PolicyServer:
    """A server of `policy` for one robot (default: the only one), which listens already; `serve` answers.

    `modality`: names of cameras and parts, as meta/modality.json has them. `fit`: how images of another size are made square;
    default: as in training. Raises ValueError for a robot that the policy does not know, and where it cannot listen.
    """
    layout = layout_of(policy.embodiment(embodiment), modality)
    served = ServedPolicy(policy, embodiment, layout, fit=fit, dialect=dialect, seed=seed, max_batch=max_batch)
    return PolicyServer(served, config)


def serve(policy: Policy, embodiment: str = "", *, port: int = 5555, host: str = "127.0.0.1", **settings: Any) -> None:
    """Answers Isaac-GR00T's clients until Ctrl+C, or until a client ends it; `settings`: those of `ServerConfig`."""
    server = server_of(policy, embodiment, ServerConfig(host=host, port=port, **settings))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


def _array(observation: Mapping[str, Any], kind: str, name: str, nested: bool) -> NDArray[Any]:
    place = observation.get(kind) if nested else observation
    key = name if nested else f"{kind}.{name}"
    if not isinstance(place, dict) or key not in place:
        have = sorted(map(str, place))[:20] if isinstance(place, dict) else []
        raise ValueError(f"{kind}.{name} is missing; the observation{f' under {kind}' if nested else ''} has {have}")
    value = place[key]
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{kind}.{name}: a {type(value).__name__}; must be a numpy array")
    return value


def _state(name: str, value: NDArray[Any], size: int, width: int) -> NDArray[np.float32]:
    """[B, 1, D] -> float32 [B, D]."""
    if value.dtype.kind != "f" or value.shape != (size, 1, width):
        raise ValueError(
            f"{name}: {value.dtype} {list(value.shape)}: must be float32 [{size}, 1, {width}] (batch, the present step, "
            "dimensions), the batch axis being optional for flat observations"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        state = value[:, 0].astype(np.float32)
    if not np.isfinite(state).all():
        raise ValueError(f"{name}: not finite")
    return state
