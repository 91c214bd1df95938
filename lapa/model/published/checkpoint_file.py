"""A published checkpoint on disk or on the Hugging Face hub: fetched, read without running anything that it holds, recognised."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.store.remote import at_hand, url_in
from lapa.model.config import LamConfig
from lapa.model.published.adapter import Adapter, Weights
from lapa.model.published.dreamdojo import DreamDojo
from lapa.model.published.lapa import Lapa
from lapa.model.published.univla import UniVla

if TYPE_CHECKING:
    from torch import Tensor

    from flare.vision import FrozenVision

ADAPTERS: tuple[type[Adapter], ...] = (Lapa, DreamDojo, UniVla)
_ANEW = "in its authors' environment, save the tensors alone: torch.save(model.state_dict(), 'weights.pt')"


@dataclass(frozen=True)
class PublishedModel:
    """A checkpoint that was recognised."""

    path: Path
    adapter: type[Adapter]
    config: LamConfig
    weights: Weights
    """As the file names them."""

    def state(self) -> dict[str, Tensor]:
        """Tensors by their names in giza's model."""
        return self.adapter.renamed(self.weights)

    def vision(self) -> FrozenVision | None:
        """The frozen vision model that it holds. Raises ValueError where that is not whole."""
        try:
            return self.adapter.vision(self.weights)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"'{self.path}': its frozen vision model is not whole ({error}): fetch it again"
            ) from error

    def hash(self) -> str:
        """16 hex digits over the file and what giza makes of it."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        with open(self.path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()[:16]


def local(named: str | Path) -> Path:
    """The path of a model that was named so: fetched, where it is hf://owner/repository/file (or repository@revision).

    Raises ValueError where the hub does not have it, or it cannot be reached and was not fetched before.
    """
    on_hub = re.match(r"hf:/+(.*)", str(named))
    if on_hub is None or url_in(named):
        return at_hand(named).expanduser().absolute()
    parts = on_hub.group(1).split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise ValueError(
            f"'{named}' names no file: give hf://owner/repository/file, for instance hf://nvidia/DreamDojo/LAM_400k.ckpt"
        )
    from huggingface_hub import hf_hub_download

    owner, (repository, _, revision), file = parts[0], parts[1].partition("@"), parts[2]
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file, revision=revision or None))
    except (OSError, ValueError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"'{named}' cannot be fetched ({told[0]}): fetch the file by other means, and give its path"
        ) from error


def read_published(path: Path) -> PublishedModel:
    """Raises ValueError for a file that is damaged, holds more than tensors and plain containers, or is of no model that giza
    knows."""
    weights, settings = _tensors(path)
    for adapter in ADAPTERS:
        if adapter.knows(weights):
            try:
                return PublishedModel(path, adapter, adapter.config(weights, settings), weights)
            except (KeyError, ValueError) as error:
                wrong = f"lacks the tensor {error}" if isinstance(error, KeyError) else str(error)
                raise ValueError(
                    f"'{path}': {wrong}; give a checkpoint of {adapter.name} as its authors publish it"
                ) from error
    known = ", ".join(adapter.name for adapter in ADAPTERS)
    some = ", ".join(list(weights)[:3]) or "none"
    raise ValueError(
        f"'{path}' is a checkpoint of no latent action model that giza knows ({known}); its first tensors are {some}: give one of "
        "those, or a run folder of giza train-lam"
    )


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """By name, without what wraps them: a Lightning checkpoint's or a trainer's other parts, prefixes of parallel training and
    of running means; and Lightning's settings, where there are some. Tensors stay on disk until they are used."""
    held = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    settings = held.get("hyper_parameters") if isinstance(held, dict) else None
    for wrapper in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(wrapper), dict):
            held = held[wrapper]
    found: dict[str, Tensor] = {}
    for name, value in held.items() if isinstance(held, dict) else ():
        if hasattr(value, "shape"):
            found[re.sub(r"^(module|ema_model|_orig_mod|lam)\.", "", str(name))] = value
    return found, settings if isinstance(settings, dict) else {}


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"'{path}' is damaged ({error}): fetch it again") from error


def _pickled(path: Path) -> object:
    import pickle

    import torch

    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"'{path}' is no checkpoint, or is cut off ({path.stat().st_size} bytes): fetch it again, or give a run folder of giza "
            f"train-lam; if it is older than PyTorch 1.6, {_ANEW}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"'{named.group(1)}'" if named else "objects"
        raise ValueError(
            f"'{path}' holds more than tensors and plain containers ({what}), which could run code when it is read: {_ANEW}"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"'{path}' is damaged ({str(error).splitlines()[0]}): fetch it again") from error
