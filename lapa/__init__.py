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
knows no model), `model`, `latents` and `codes`, `foreign` (latents of other trainers), `training`, `extraction`, `reporting`,
`recipes`. A quantiser of one's own is a
class: see `lapa.model.quantisers.register`. Names are imported when they are first used, so that `import lapa` is cheap.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from lapa.extraction.extract import extract
    from lapa.foreign.bring import bring_in
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

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "lapa.extraction.extract": "extract",
        "lapa.foreign.bring": "bring_in",
        "lapa.latents": "Latents",
        "lapa.model.checkpoint": "load=load_lam",
        "lapa.model.config": "LamConfig",
        "lapa.model.lam": "LatentActionModel",
        "lapa.pairs.batch": "PairBatch",
        "lapa.pairs.config": "PairConfig",
        "lapa.pairs.reader": "PairReader",
        "lapa.recipes": "RECIPES",
        "lapa.reporting.card": "Card",
        "lapa.reporting.measure": "report",
    },
)
