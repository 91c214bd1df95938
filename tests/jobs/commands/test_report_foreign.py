"""Reports on latents from elsewhere, and reports side by side."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands import compare
from jobs.commands.report import ReportConfig, print_card, run
from lapa.latents import Latents
from lapa.pairs.config import PairConfig
from lapa.reporting.card import Card
from tests.builders.foreign import records_of, write_jsonl, write_npz
from tests.builders.latents import rows
from tests.builders.reports import CONFIG, QUICK, make_latents, make_run
from tests.flare.test_vision import save

HELD_OUT = tuple(f"robot/episode_{k:06d}" for k in (5, 6, 7))


@pytest.fixture(scope="module")
def reports(report_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports `own`, of a model's latents, and `theirs`, of the same written out as another trainer would, without the model."""
    root = tmp_path_factory.mktemp("foreign")
    lam = make_run(root / "lam", config=replace(CONFIG, pair=PairConfig(image_size=64)))
    latents = make_latents(root / "latents", report_corpus, lam, "motion")
    settings = replace(QUICK, test_groups=HELD_OUT, features=save("dinov2", root / "vision"))
    run(ReportConfig(report_corpus, latents, root / "own", lam, settings=settings, threads=1))
    records = records_of(rows(latents))
    theirs = write_npz(root / "theirs.npz", [record | {"t_s": record["t_s"] + 2e-4} for record in records])
    run(ReportConfig(report_corpus, theirs, root / "theirs", settings=settings, threads=1))
    return root


def card_of(folder: Path) -> Card:
    return Card.from_json(json.loads((folder / "report.json").read_text("utf-8")))


def test_the_same_latents_from_elsewhere_have_the_same_figures(reports: Path) -> None:
    own, theirs = card_of(reports / "own"), card_of(reports / "theirs")
    mine, other = own.probes["two_link"], theirs.probes["two_link"]
    assert mine.pairs_hash == other.pairs_hash and mine.test_groups == other.test_groups == list(HELD_OUT)
    for step, same in zip((mine.readout, *mine.budgets), (other.readout, *other.budgets), strict=True):
        assert set(step.scores) - set(same.scores) == {"untrained"}
        for name, score in same.scores.items():
            assert score.r2 == pytest.approx(step.scores[name].r2, abs=1e-9), name
            assert score.ci95 == pytest.approx(step.scores[name].ci95, abs=1e-9), name
    assert own.codes is not None and theirs.codes is not None and own.codes.used == theirs.codes.used
    assert own.latent == theirs.latent and mine.scores["features"].r2_mean < mine.scores["latent"].r2_mean


def test_what_needs_the_decoder_is_left_out_and_said(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = card_of(reports / "theirs")
    assert card.reconstruction is None and card.cuts is None and card.transfer is None
    assert card.foreign is not None and card.foreign.format == "npz" and card.foreign.faults == ()
    assert card.verdict.level == "trust with care"
    assert "Neither the model nor its decoder is at hand: reconstruction, cuts" in card.verdict.text
    page = re.sub(r"\s+", " ", (reports / "theirs" / "report.html").read_text("utf-8"))
    assert "Where these latents are from" in page and "Not measured. Neither the model nor its decoder" in page
    print_card(card)
    assert "rows are pairs of this corpus" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "foreign" not in json.loads((reports / "own" / "report.json").read_text("utf-8"))


def test_reports_side_by_side(reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compare.CompareConfig((reports / "own", reports / "theirs"), tmp_path / "compare", ("small", "theirs"))
    found = compare.run(config)
    (body,) = found.bodies
    titles = [row.title for row in body.rows]
    assert sorted(titles) == [
        "PCA of the difference", "first frame alone", "frozen features, 512 numbers (vision)", "small", "small, its code",
        "theirs", "theirs, its code", "untrained network of small",
    ]  # fmt: skip
    assert body.labels == [16, card_of(reports / "own").probes["two_link"].readout.labels]
    small, theirs = (next(row for row in body.rows if row.title == name) for name in ("small", "theirs"))
    assert {body.standing(small, n) for n in body.labels} | {body.standing(theirs, n) for n in body.labels} == {
        "best", "not shown",
    }  # fmt: skip
    frozen = body.frozen
    assert frozen is not None and frozen.numbers == 512 and body.standing(frozen, body.labels[-1]) == "below"
    assert body.beside_frozen(small, body.labels[-1]) == "above" and body.beside_frozen(frozen, 16) == ""
    page = (tmp_path / "compare" / "compare.html").read_text("utf-8")
    assert "http" not in page and "<script" not in page and "url(" not in page and "<svg" in page
    assert "not shown" in page and "frozen features, 512 numbers" in page
    told = capsys.readouterr().out
    assert "small" in told and "best" in told and "frozen" in told
    record = json.loads((tmp_path / "compare" / "compare.json").read_text("utf-8"))
    assert record["bodies"][0]["rows"][0]["scores"]["16"]["r2_mean"] is not None


def change(record: dict, path: str, value: object) -> None:
    *inside, last = path.split("/")
    for name in inside:
        record = record[name]
    record[last] = value


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("corpus_hash", "other", "is of another corpus than 'own': give both the same --corpus"),
        ("settings/budgets", [32], r"budgets \(32,\), 'own' with \(16, 1000000\).*same --budgets"),
        ("settings/seed", 3, "with seed 3, 'own' with 0: make one again with the same --seed"),
        ("probes/two_link/pairs_hash", "x", "of other pairs of two_link .*--stride-s.*--same-pairs"),
        ("probes/two_link/pairs_hash", "", "by an earlier version of giza"),
        ("probes/two_link/dims", [1], r"reads observation.state \[1\] of two_link.*--target and --dims"),
        ("probes/two_link/test_groups", ["a"], "on other episodes .*--test-groups robot/episode_000005 robot"),
        ("probes", {}, "no body's motion is read in all"),
    ],
)
def test_reports_that_were_not_asked_the_same_are_refused(
    path: str, value: object, told: str, reports: Path, tmp_path: Path
) -> None:
    record = json.loads((reports / "theirs" / "report.json").read_text("utf-8"))
    change(record, path, value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ValueError, match=f"'other'.*{told}|{told}") as error:
        compare.run(compare.CompareConfig((reports / "own", tmp_path / "other"), tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_folders_that_cannot_be_compared(reports: Path, tmp_path: Path) -> None:
    own = reports / "own"
    with pytest.raises(ValueError, match=r"several folders are called own: tell them apart with --names"):
        compare.run(compare.CompareConfig((own, own), tmp_path / "out"))
    with pytest.raises(ValueError, match=r"1 names for 2 folders"):
        compare.run(compare.CompareConfig((own, reports / "theirs"), tmp_path / "out", ("a",)))
    with pytest.raises(ValueError, match=r"1 report to compare"):
        compare.run(compare.CompareConfig((own,), tmp_path / "out"))
    with pytest.raises(ValueError, match=r"holds no report.json and no evaluation.json: make it with giza report"):
        compare.run(compare.CompareConfig((own, tmp_path), tmp_path / "out"))


def test_only_pairs_that_others_hold_as_well(reports: Path, report_corpus: Path, tmp_path: Path) -> None:
    from corpora.clips.corpus import Corpus
    from lapa.foreign.bring import bring_in

    own = Latents(reports / "latents")
    some = records_of(rows(reports / "latents"))[10:50]
    half = bring_in(write_jsonl(tmp_path / "half.jsonl", some), Corpus(report_corpus), tmp_path / "half")
    mine, theirs = own.sample(10**5, same_as=[half]), half.sample(10**5, same_as=[own])
    assert len(mine) == len(theirs) == 40
    assert mine.clip_id.tolist() == theirs.clip_id.tolist() and mine.t_s.tolist() == theirs.t_s.tolist()
    assert mine.latent.tolist() == theirs.latent.tolist()


def test_flags_that_do_not_go_together(reports: Path, report_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*flags: str) -> str:
        words = ["report", "--corpus", str(report_corpus), "--out", str(reports / "no"), *flags]
        assert main(words) == 2
        return capsys.readouterr().err

    npz, latents = str(reports / "theirs.npz"), str(reports / "latents")
    assert "leave out --lam" in told("--latents", npz, "--lam", str(reports / "lam"))
    assert "give them alone" in told("--latents", npz, latents)
    assert "there is no such file" in told("--latents", str(reports / "nothing.npz"))
    assert "Did you mean 'npz'" in told("--latents", npz, "--foreign.format", "npx")
    assert not (reports / "no").exists()


def test_own_latents_are_judged_without_their_model(reports: Path, report_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(reports / "latents", tmp_path / "latents")
    card = run(ReportConfig(report_corpus, tmp_path / "latents", tmp_path / "out", settings=QUICK, threads=1))
    assert card.no_decoder and card.foreign is None and card.codes is not None
    assert "taken to be the largest code and one" in card.codes_reason
    assert card.probes["two_link"].holdout == "k-fold"
