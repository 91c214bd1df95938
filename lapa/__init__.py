"""Latent actions: what happens between two frames of a video without actions, as a small vector and as codes.

    import corpora, lapa

    lam = lapa.load("runs/lam")                                 # or lapa.LatentActionModel(lapa.RECIPES["small"].model)
    corpus = corpora.Corpus("corpus")
    latents = lapa.extract(lam, corpus, out="latents", gap_s=0.5)
    print(len(latents), "pairs")
    card = lapa.report("runs/lam", corpus, latents)             # may these latents be trusted?
    print(card.verdicts)

    clip = next(corpus.read(limit=1))
    rows = latents.read([clip.row.clip_id])                     # codes [N, tokens], latent [N, D], t_s, gap_s ...
    pairs = lapa.PairReader(lam.config.pair)(clip).take(slice(0, 8))   # images in [0, 1]: first, second [8, 3, S, S]
    encoding = lam.encode(pairs)                                # latent [8, tokens, dim], codes
    second = lam.decode(pairs.first, encoding.latent, pairs.valid)     # the predicted second frame

A model is trained with `jobs.train_lam` or `giza train-lam`. The rooms, from the ground up: `pairs` (two frames a gap apart;
knows no model), `model`, `latents` and `codes`, `training`, `extraction`, `reporting`, `recipes`. A quantiser of one's own is a
class: see `lapa.model.quantisers.register`. Names are imported when they are first used, so that `import lapa` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lapa.extraction.extract import extract
    from lapa.latents import Latents
    from lapa.model.checkpoint import load_lam as load
    from lapa.model.config import LamConfig
    from lapa.model.lam import LatentActionModel
    from lapa.pairs.batch import PairBatch
    from lapa.pairs.config import PairConfig
    from lapa.pairs.reader import PairReader
    from lapa.recipes import RECIPES
    from lapa.reporting.card import Card
    from lapa.reporting.measure import report

_HOME = {
    "Card": "reporting.card",
    "LamConfig": "model.config",
    "LatentActionModel": "model.lam",
    "Latents": "latents",
    "PairBatch": "pairs.batch",
    "PairConfig": "pairs.config",
    "PairReader": "pairs.reader",
    "RECIPES": "recipes",
    "extract": "extraction.extract",
    "load": "model.checkpoint",
    "report": "reporting.measure",
}

__all__ = [
    "RECIPES",
    "Card",
    "LamConfig",
    "LatentActionModel",
    "Latents",
    "PairBatch",
    "PairConfig",
    "PairReader",
    "extract",
    "load",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lapa' has no attribute '{name}'")
    return getattr(importlib.import_module(f"lapa.{_HOME[name]}"), {"load": "load_lam"}.get(name, name))


def __dir__() -> list[str]:
    return __all__
