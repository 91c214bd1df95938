"""`import lapa`: its names, what importing them costs, and its docstring's example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import corpora
import lapa
from lapa.model.checkpoint import model_hash


def test_the_python_face_is_cheap_and_whole() -> None:
    """Every name resolves; importing it loads nothing that computes."""
    for name in lapa.__all__:
        assert getattr(lapa, name) is not None
    assert dir(lapa) == sorted(lapa.__all__)
    with pytest.raises(AttributeError, match="no attribute 'latent'"):
        lapa.latent  # noqa: B018
    code = "import sys, lapa; assert not {'torch', 'av', 'cv2', 'pyarrow', 'numpy'} & set(sys.modules)"
    code += "; lapa.PairConfig(); assert not {'torch', 'av', 'cv2', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_is_asked_from_python(tiny_lam: Path, tiny_corpus: Path, tiny_latents: Path, tmp_path: Path) -> None:
    """As the docstring does it; a model in memory gives the very rows of its run folder, under the same key."""
    lam, corpus = lapa.load(tiny_lam), corpora.Corpus(tiny_corpus)
    latents = lapa.extract(lam, corpus, out=tmp_path / "latents", gap_s=0.5, device="cpu")
    job = lapa.Latents(tiny_latents)
    assert latents.key == job.key and latents.key.model_hash == model_hash(tiny_lam)
    assert len(latents) == len(job) == latents.summary["pairs"] > 20
    clip = next(iter(corpus.read(limit=1)))
    rows, same = (each.read([clip.row.clip_id]) for each in (latents, job))
    np.testing.assert_array_equal(rows.codes, same.codes)
    np.testing.assert_allclose(rows.latent, same.latent, atol=1e-5)
    pairs = lapa.PairReader(lam.config.pair, stride_s=0.1)(clip)
    np.testing.assert_allclose(pairs.t_s, rows.t_s)
    with torch.no_grad():
        encoding = lam.encode(pairs)
        second = lam.decode(pairs.first, encoding.latent, pairs.valid)
    np.testing.assert_allclose(encoding.latent.flatten(1), rows.latent, atol=1e-4)
    assert second.shape == pairs.second.shape
    with pytest.raises(ValueError, match="no two frames 30 s apart; choose a shorter gap"):
        lapa.PairReader(lam.config.pair, (30.0,))(clip)
