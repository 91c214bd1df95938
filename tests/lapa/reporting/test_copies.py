"""A latent that is a picture of the second frame is found out (L2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.clips.corpus import Corpus
from lapa.model.checkpoint import load_lam
from lapa.model.lam import Encoding, LatentActionModel
from lapa.pairs.batch import PairBatch
from lapa.reporting.card import Card
from lapa.reporting.checks import reconstruction
from lapa.reporting.checks.reconstruction import check_cuts
from lapa.reporting.measure import report
from lapa.reporting.probes.baselines import change_images, fit_components
from lapa.reporting.verdict import judge
from tests.builders.cards import BODY, good_card
from tests.builders.reports import GAP, QUICK, SIZE, make_latents


@pytest.mark.parametrize("kind", ["copy", "half"])
def test_a_latent_that_copies_the_second_frame_is_not_to_be_trusted(
    kind: str, report_corpus: Path, report_lam: Path, tmp_path: Path
) -> None:
    """L2: half of it is the true motion, which the probe finds, and nothing that looks at the codes finds the rest."""
    card = report(report_lam, report_corpus, make_latents(tmp_path / kind, report_corpus, report_lam, kind), QUICK)
    for body in ("two_link", "human"):
        verdict = card.verdicts[body]
        assert verdict.level == "do not trust" and "copies the second frame" in verdict.text, str(verdict)
    assert card.appearance is not None and card.appearance.beyond_difference > 0.5
    if kind == "half":
        assert card.probes["two_link"].scores["latent"].r2_mean > 0.9


def test_what_happened_is_no_picture_of_the_second_frame(
    motion_card: Card, report_corpus: Path, report_lam: Path, tmp_path: Path
) -> None:
    changes = make_latents(tmp_path / "pca", report_corpus, report_lam, "pca")
    for card in (motion_card, report(report_lam, report_corpus, changes, QUICK)):
        assert card.appearance is not None and card.appearance.beyond_difference < 0.2
        assert card.verdicts["two_link"].level == "trust with care"  # the latents are not this model's
        assert "The latent is no picture of the second frame" in card.verdict.text


def test_a_model_that_copies_through_its_continuous_latent_alone_is_found_out(
    report_corpus: Path, report_lam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2: the codes know nothing of it."""
    model, encode = load_lam(report_lam), LatentActionModel.encode

    def copying(self: LatentActionModel, pairs: PairBatch) -> Encoding:
        return replace(encode(self, pairs), latent=pairs.second.flatten(1)[:, None])

    def decode(
        self: LatentActionModel, first: torch.Tensor, latent: torch.Tensor, valid: object, **_: object
    ) -> torch.Tensor:
        return latent.view_as(first) if latent.shape[1] == 1 else first

    monkeypatch.setattr(LatentActionModel, "encode", copying)
    monkeypatch.setattr(LatentActionModel, "decode", decode)
    clips = [(clip.row, clip.frames) for clip in Corpus(report_corpus).read()]
    ends = np.stack([frames[[0, -1]] for _, frames in clips])
    thumbs = np.stack([frames[[0, GAP]] for _, frames in clips])
    components, rng = fit_components(change_images(thumbs), 16, 0), np.random.default_rng(0)
    monkeypatch.setattr(reconstruction, "THUMB", SIZE)
    cuts, _ = check_cuts(
        model, [row for row, _ in clips], ends, thumbs, 0.5, components, None, np.ones(len(clips)), 0, rng
    )
    assert cuts is not None and cuts.continuous_explained > 0.99 and cuts.explained < 0.01
    assert 0.2 < cuts.guess_explained < 0.7
    verdict = judge(good_card(cuts=cuts), BODY)
    assert verdict.level == "do not trust" and "still rebuilds the second frame: 100%" in verdict.text
