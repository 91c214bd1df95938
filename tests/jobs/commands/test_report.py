"""The report card end to end on a made corpus."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.clips.corpus import Corpus
from jobs.cli import main
from jobs.commands import train_lam
from jobs.commands.report import ReportConfig, print_card, run
from lapa.extraction.extract import extract
from lapa.latents import Latents
from lapa.model.checkpoint import load_lam, model_hash
from lapa.model.config import QuantiserConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.config import PairConfig
from lapa.reporting.card import Card
from lapa.reporting.measure import RunFacts, make_card, report
from lapa.reporting.settings import ReportSettings
from tests.builders.lam import lam_settings, tiny_recipe
from tests.builders.reports import CONFIG, QUICK, make_corpus, make_latents, make_run
from tests.flare.test_vision import save


@pytest.fixture(scope="module")
def random_report(report_corpus: Path, report_lam: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Path]:
    root = tmp_path_factory.mktemp("report")
    latents = make_latents(root / "latents", report_corpus, report_lam, "random")
    return run(ReportConfig(report_corpus, latents, root / "out", report_lam, settings=QUICK, threads=1)), root / "out"


def test_the_report_holds_every_field_and_its_baselines(random_report: tuple[Card, Path]) -> None:
    returned, out = random_report
    card = json.loads((out / "report.json").read_text("utf-8"))
    assert Card.from_json(card) == returned
    assert {k: v for k, v in card.items() if k not in ("config", "wall_s", "provenance")} == returned.to_json()
    assert set(card["codes"]) >= {"size", "used", "perplexity"}
    assert card["codes"]["size"] == 8 and card["codes"]["used"] == 8
    assert set(card["reconstruction"]) >= {"psnr_db", "copy_psnr_db", "random_code_psnr_db"}
    assert card["reconstruction"]["groups"] == 3
    probe = card["probe"]
    assert probe["dims"] == [0, 1] and probe["gap_s"] == pytest.approx(0.5)
    assert min(probe["spread"]) > 1 and probe["other_dims"] == [2] and probe["other_spread"] == [0]
    assert "Not asked for: dimensions 2 (0)" in re.sub(r"\s+", " ", (out / "report.html").read_text("utf-8"))
    assert probe["holdout"] == "held out of training" and len(probe["test_groups"]) == 3
    assert probe["skipped_budgets"] == [10**6] and list(probe["budgets"]) == ["16"]
    for cell in (probe, probe["budgets"]["16"]):
        for name in ("latent", "first_frame", "untrained", "pca", "shuffled"):
            assert len(cell[name]["r2"]) == 2
            assert cell[name]["ci95"][0] <= cell[name]["r2_mean"] + 0.1
        for name in ("first_frame", "untrained", "pca", "shuffled"):
            assert set(cell["difference"][name]) == {"mean", "ci95"}
    assert "r2_mean" in card["camera"]
    assert card["cuts"]["kind"] == "neighbouring shots"
    assert card["verdict"].startswith("Do not trust") and card["verdict_detail"]["level"] == "do not trust"


def test_random_latents_are_not_to_be_trusted(
    random_report: tuple[Card, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card, _ = random_report
    print_card(card)
    told = capsys.readouterr().out
    assert "\ntwo_link: Do not trust\n" in told and f"\nhuman: {card.verdicts['human'].title}\n" in told
    assert card.probes["two_link"].scores["latent"].r2_mean < 0.1
    assert card.verdicts["two_link"].level == "do not trust" and card.verdict is card.verdicts["two_link"]
    assert "(no clip of this body has ground truth)" in card.verdicts["human"].text
    assert any("not what this model makes" in warning for warning in card.warnings)


def test_the_page_needs_nothing_but_itself(random_report: tuple[Card, Path]) -> None:
    _, out = random_report
    page = (out / "report.html").read_text("utf-8")
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "base64,", page)
    assert "http" not in text and "<script src" not in text and "<link" not in text and "url(" not in text
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]{0,40})', page))
    assert page.count("<img") > 20 and "<svg" in page
    assert "Do not trust" in page
    assert not list(out.glob("*.tmp"))


def test_latents_that_hold_the_motion_are_found_out(motion_card: Card) -> None:
    probe = motion_card.probes["two_link"]
    assert probe.scores["latent"].r2_mean > 0.9
    assert probe.difference["shuffled"].ci95[0] > 0.5
    assert probe.difference["first_frame"].ci95[0] > 0
    assert probe.neighbour_agreement is not None and probe.neighbour_agreement > 0.5
    assert motion_card.verdict.level == "trust with care"  # the latents are not this model's


@pytest.mark.parametrize("name", ["small", "debug"])
def test_an_honest_model_has_learned_and_passes(name: str, report_corpus: Path, tmp_path: Path) -> None:
    lam, latents = tmp_path / "lam", tmp_path / "latents"
    recipe = tiny_recipe(name, tmp_path)
    training = replace(recipe.training, steps=80, batch_size=16, lr=3e-3, val_every_steps=80)
    train_lam.run(lam_settings(report_corpus, lam, recipe=name, model=recipe.model, training=training), quiet=True)
    card = report(lam, report_corpus, extract(lam, report_corpus, latents, stride_s=0.0), QUICK)
    assert card.reconstruction.continuous_explained > 0.2
    assert card.probes["two_link"].difference["untrained"].ci95[0] > 0, str(card)
    assert card.appearance is not None and card.appearance.beyond_difference < 0.2
    assert card.cuts is not None and card.cuts.continuous_explained < card.cuts.guess_explained
    assert card.verdicts["human"].level == "cannot tell" and "no picture of the second frame" in card.verdict.text
    if name == "small":  # `debug` has learned as well, but less than PCA knows
        assert card.verdicts["two_link"].level in ("trust", "trust with care"), str(card)


def test_without_known_actions_nobody_can_tell(report_lam: Path, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", truth=False)
    latents = make_latents(tmp_path / "latents", corpus, report_lam, "random")
    card = run(ReportConfig(corpus, latents, tmp_path / "out", report_lam, settings=QUICK, threads=1))
    assert card.probe is None and card.probes == {}
    assert card.probe_reason == "no clip of the corpus has ground truth"
    assert card.verdict.level in ("cannot tell", "do not trust")
    assert "No known actions" in card.verdict.text
    assert "Not measured" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_continuous_model_has_clusters_instead_of_codes(report_corpus: Path, tmp_path: Path) -> None:
    from jobs.commands.extract import ExtractConfig
    from jobs.commands.extract import run as extract_job

    lam = make_run(tmp_path / "lam", config=replace(CONFIG, quantiser=QuantiserConfig(kind="none")))
    extract_job(ExtractConfig(lam=lam, corpus=report_corpus, out=tmp_path / "latents", workers=1, measure_s=0.0))
    card = run(ReportConfig(report_corpus, tmp_path / "latents", tmp_path / "out", lam, settings=QUICK, threads=1))
    assert card.codes is None and "continuous" in card.codes_reason
    assert "quantized" not in card.probes["two_link"].scores
    assert card.atlas.kind.startswith("k-means clusters")
    assert not any("not what this model makes" in warning for warning in card.warnings)
    assert card.reconstruction.random_code_psnr_db is not None


def test_a_frozen_vision_model_stands_among_the_baselines(
    report_corpus: Path, report_lam: Path, motion_latents: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, dims=(1,), vision=save("dinov2", tmp_path / "vision"))
    card = report(report_lam, report_corpus, motion_latents, settings)
    assert card.probes["two_link"].dims == [1]
    for readout in (card.probes["two_link"].readout, *card.probes["two_link"].budgets):
        assert -1 < readout.scores["vision"].r2_mean < readout.scores["latent"].r2_mean
    assert "The latent is above a frozen vision model's features" in card.verdict.text
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == replace(card, images=None)
    card.save_html(tmp_path / "card.html")
    assert "minus frozen vision model" in (tmp_path / "card.html").read_text("utf-8")
    with pytest.raises(ValueError, match="cannot be loaded"):
        report(report_lam, report_corpus, motion_latents, replace(settings, vision=str(tmp_path)))


def test_a_model_of_features_has_no_pictures_but_all_else(
    report_corpus: Path, motion_latents: Path, tmp_path: Path
) -> None:
    config = replace(
        CONFIG, target="made features", input="both", flow_weight=0.0,
        pair=PairConfig(image_size=32, camera_compensation=False, flow="none"),
        feature_patches=16, feature_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LatentActionModel(config).eval()

    def featurise(frames: np.ndarray) -> np.ndarray:
        """Mean colour and contrast of 16 patches."""
        patches = frames.reshape(len(frames), 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(frames), 16, 64, 3)
        values = np.concatenate([patches.mean(2), patches.std(2), patches.max(2)[..., :2]], -1) / 255
        return values.astype(np.float16)

    facts = RunFacts(held_out_groups=tuple(f"robot/episode_{k:06d}" for k in (5, 6, 7)))
    card = make_card(Corpus(report_corpus), model, facts, Latents(motion_latents), QUICK, featurise)
    assert card.reconstruction.psnr_db is None and 0 < card.reconstruction.pca_explained <= 1
    assert card.probes["two_link"].scores["latent"].r2_mean > 0.9
    assert "no picture" in card.transfer_reason and card.images is not None and not card.images.reconstructions
    card.save_html(tmp_path / "card.html")
    assert "features of made features" in (tmp_path / "card.html").read_text("utf-8")


def test_of_a_model_without_its_run_nothing_is_known_to_be_held_out(
    report_corpus: Path, report_lam: Path, motion_latents: Path, motion_card: Card
) -> None:
    alone = report(load_lam(report_lam), Corpus(report_corpus), motion_latents, QUICK)
    assert any("Nothing is known of the model's training" in reason.text for reason in alone.verdict.reasons)
    assert alone.probes["two_link"].holdout == "k-fold"
    known = report(load_lam(report_lam), report_corpus, Latents(motion_latents), QUICK, run=report_lam)
    assert known.probes["two_link"].holdout == "held out of training" and known.model_hash == model_hash(report_lam)
    assert not any("Nothing is known" in reason.text for reason in known.verdict.reasons)
    assert str(known) == "\n".join(f"{body}: {known.verdicts[body]}" for body in ("human", "two_link"))
    assert replace(known, seconds=motion_card.seconds) == motion_card  # measured again, it is the same


def test_wrong_use_is_told_in_one_line(
    report_corpus: Path, report_lam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", "--lam", str(report_lam), "--corpus", str(report_corpus), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--latents", str(tmp_path)]) == 2
    assert "make them with giza extract" in capsys.readouterr().err
    latents = str(make_latents(tmp_path / "latents", report_corpus, report_lam, "random"))
    assert main([*arguments, "--latents", latents, "--target", "hand"]) == 2
    assert "the corpus knows observation.state" in capsys.readouterr().err
    assert main([*arguments, "--latents", latents, "--dims", "9"]) == 2
    assert "dimensions 0 to 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_pairs 5"):
        ReportSettings(max_pairs=5)
    with pytest.raises(ValueError, match="bootstrap 0"):
        ReportSettings(bootstrap=0)
