"""What giza report said of latents is heard wherever they are used; latents that are not to be trusted are not trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from corpora.mixture.judged import JUDGED, Judged, judged
from jobs.commands import extract, pretrain, pyramid, report
from lapa.latents import Latents
from lapa.reporting.card import Card
from tests.builders.reports import QUICK
from vla.recipes import RECIPES

DEBUG = RECIPES["debug"]


@pytest.fixture
def latents(tiny_latents: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_latents, tmp_path / "latents"))


@pytest.fixture
def file(tiny_corpus: Path, latents: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pyramid.toml"
    path.write_text(
        f'[[dataset]]\nname = "hands"\ntier = "human"\nlabel = "latent"\ncorpus = "{tiny_corpus}"\nlatents = "{latents}"\n'
    )
    return path


def say(latents: Path, level: str) -> None:
    Judged({"hand": level}, "2026-11-30", Latents(latents).key.model_hash).save(latents)


def test_a_report_keeps_its_verdict_beside_the_latents(
    tiny_corpus: Path, tiny_lam: Path, latents: Path, tmp_path: Path
) -> None:
    assert judged(latents) is None
    report.run(report.ReportConfig(tiny_corpus, latents, tmp_path / "report", lam=tiny_lam, settings=QUICK, threads=1))
    card = Card.from_json(json.loads((tmp_path / "report" / "report.json").read_text()))
    found = judged(latents, Latents(latents).key.model_hash)
    assert found is not None and found.levels == {body: verdict.level for body, verdict in card.verdicts.items()}
    assert judged(latents, "of another model") is None


def test_extract_says_whether_they_were_judged(
    tiny_corpus: Path, tiny_lam: Path, latents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--lam", str(tiny_lam), "--corpus", str(tiny_corpus), "--out", str(latents), "--gap-s", "0.5"]
    extract.main(words)
    assert "verdict: never judged; giza report says whether to trust them" in capsys.readouterr().out
    say(latents, "trust with care")
    extract.main(words)
    assert "verdict: hand: trust with care (2026-11-30)" in capsys.readouterr().out


def test_pyramid_and_policy_carry_it(
    file: Path, latents: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [d.spec.label.verdict for d in pyramid.run(pyramid.PyramidConfig(file, recipe="debug")).datasets] == [
        "never judged"
    ]
    say(latents, "cannot tell")
    pyramid.main([str(file), "--recipe", "debug"])
    assert "hands, latents: hand: cannot tell (2026-11-30)\n" in capsys.readouterr().out
    caplog.set_level("INFO")
    config = pretrain.PretrainConfig(
        pyramid=file, out=tmp_path / "policy", recipe="debug", model=DEBUG.policy, training=DEBUG.training, steps=2
    )
    summary = pretrain.run(config, quiet=True)
    assert summary["members"][0]["verdict"] == "hand: cannot tell (2026-11-30)"
    assert "hand: cannot tell (2026-11-30)" in (tmp_path / "policy" / "README.md").read_text()
    assert "dataset 'hands': latents, hand: cannot tell (2026-11-30)" in caplog.text


def test_what_is_not_to_be_trusted_is_not_trained_on_unless_asked_for(
    file: Path, latents: Path, tmp_path: Path
) -> None:
    say(latents, "do not trust")
    config = pretrain.PretrainConfig(
        pyramid=file, out=tmp_path / "policy", recipe="debug", model=DEBUG.policy, training=DEBUG.training, steps=2
    )
    with pytest.raises(ValueError, match=r"'hands': giza report said .* hand: do not trust \(2026-11-30\).* --anyway"):
        pretrain.run(config, quiet=True)
    assert not (tmp_path / "policy").exists()
    assert pretrain.run(dataclasses.replace(config, anyway=True), quiet=True)["steps"] == 2


def test_a_damaged_verdict_is_named(latents: Path, file: Path) -> None:
    (latents / JUDGED).write_text("{")
    with pytest.raises(ValueError, match="_judged.json: damaged"):
        pyramid.main([str(file), "--recipe", "debug"])
