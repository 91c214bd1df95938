"""The latent action model on disk: a run folder's model.safetensors and config.json, or a checkpoint that others published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from corpora.store.files import write_json, written_whole
from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel, featurise_for
from lapa.model.published.checkpoint_file import local, read_published
from lapa.pairs.pair import STABILISED
from lapa.pairs.table import Featurise

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_STABILISED = "stabilised"
"""Beside the fields of the configuration: which stabilised images a model with camera compensation was trained on."""

_OF_TRAINING = ("latent_mean", "latent_std", "quantiser.usage", "quantiser.task.usage", "quantiser.frozen.usage")
"""What a published checkpoint does not hold and extraction does not need."""


def save_lam(model: LatentActionModel, folder: str | Path) -> None:
    """Writes model.safetensors and config.json, each under a temporary name first; with camera compensation the latter
    records how images were stabilised."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with written_whole(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    values = dataclasses.asdict(model.config)
    if model.config.pair.camera_compensation:
        values[_STABILISED] = STABILISED
    write_json(folder / CONFIG, values)


def read_lam_config(folder: str | Path) -> LamConfig:
    """The configuration of a run folder's model, or of a published checkpoint (a file, or hf://owner/repository/file).

    Raises ValueError where there is no model, or one that was trained on images stabilised in another way: what this
    version would show it is not what its latents were learned from.
    """
    folder = local(folder)
    return read_published(folder).config if folder.is_file() else _config_of_run(folder)


def _config_of_run(folder: Path) -> LamConfig:
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise ValueError(
            f"'{folder}' holds no latent action model: train one with giza train-lam --out {folder}, or give a published "
            "checkpoint's file"
        )
    values = json.loads((folder / CONFIG).read_text("utf-8"))
    stabilised = values.pop(_STABILISED, None)
    config = LamConfig.from_dict(values)
    if config.pair.camera_compensation and stabilised != STABILISED:
        was = "no number" if stabilised is None else f"number {stabilised}"
        raise ValueError(
            f"'{folder}' holds a latent action model whose camera compensation has {was} of `stabilised`; this version of "
            f"giza stabilises by number {STABILISED}, which gives other images: train it again (giza train-lam, another "
            "--out)"
        )
    return config


def load_lam(folder: str | Path, device: str | torch.device = "cpu") -> LatentActionModel:
    """The model of a run folder or of a published checkpoint, in evaluation mode. Raises ValueError as `read_lam_config` does."""
    from safetensors.torch import load_file

    folder = local(folder)
    if folder.is_file():
        published = read_published(folder)
        model = LatentActionModel(published.config)
        _fill(model, published.state(), f"'{folder}', read as a checkpoint of {published.adapter.name},")
    else:
        model = LatentActionModel(_config_of_run(folder))
        model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(device).eval()


def _fill(model: LatentActionModel, weights: dict[str, Tensor], what: str) -> None:
    """Loads a published model's `weights`: all but the statistics that giza keeps of a training. Raises ValueError where names or
    shapes differ."""
    own = {name: value.shape for name, value in model.state_dict().items() if name not in _OF_TRAINING}
    given = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        shapes = [tuple(found[wrong[0]]) if wrong[0] in found else "nothing" for found in (given, own)]
        raise ValueError(
            f"{what} has {shapes[0]} for {wrong[0]}, where {shapes[1]} belongs ({len(wrong)} such): its sizes are not those of the "
            "published network; fetch it again"
        )
    model.load_state_dict(weights, strict=False)


def made_by(folder: str | Path) -> str:
    """The published model's name, or giza."""
    path = local(folder)
    return read_published(path).adapter.name if path.is_file() else "giza"


def featurise_of(folder: str | Path, config: LamConfig, device: str = "cpu") -> Featurise | None:
    """What makes the input of the model `folder`, whose configuration is `config`, from frames: the frozen model that a
    published checkpoint holds, or else the one that the configuration names; None for a model of images."""
    path = local(folder)
    vision = read_published(path).vision() if path.is_file() else None
    return featurise_for(config, device) if vision is None else vision.to(device).exactly


def preprocessing_of(folder: str | Path, config: LamConfig) -> str:
    """What the model `folder`, whose configuration is `config`, is shown, in words."""
    path = local(folder)
    return read_published(path).adapter.preprocessing(config) if path.is_file() else config.pair.preprocessing


def model_hash(folder: str | Path) -> str:
    """16 hex digits over the weights and the configuration of a run folder, or over a published checkpoint."""
    folder = local(folder)
    if folder.is_file():
        return read_published(folder).hash()
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def initialise_from(model: LatentActionModel, folder: str | Path) -> list[str]:
    """Weights of another run where names and shapes agree; stage 2 takes of a stage 1 its tokens and its codebook, as
    its frozen one (UniVLA). Returns the names that were taken. Raises ValueError where none agree."""
    source = load_lam(folder)
    own = model.state_dict()
    taken: list[str] = []
    for name, value in _offered(model, source).items():
        if name not in own:
            continue
        if own[name].shape == value.shape:
            own[name] = value
            taken.append(name)
    if not taken:
        raise ValueError(f"'{folder}' shares no weights with this model: give a run of the same recipe")
    model.load_state_dict(own)
    return taken


def _offered(model: LatentActionModel, source: LatentActionModel) -> dict[str, Tensor]:
    """Weights of `source` by the names that they have in `model`."""
    quantiser = model.quantiser.adopt(source.quantiser.state_dict())
    rest = {name: value for name, value in source.state_dict().items() if not name.startswith("quantiser.")}
    if model.config.stage == 2 and source.config.stage == 1:
        # all else of stage 1 leans on the text, and starts anew, as in UniVLA's code
        rest = {name: value for name, value in rest.items() if name == "encoder.branches.0.prompt"}
    return rest | {"quantiser." + name: value for name, value in quantiser.items()}
