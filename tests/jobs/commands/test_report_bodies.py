"""Read-outs between bodies: fitted on one, tested on another, in a report on several corpora."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jobs
import lapa
from corpora.clips.several import open_corpora
from jobs.commands import extract, train_lam
from jobs.commands.report import ReportConfig, run
from lapa.latents import Latents, LatentSample
from lapa.reporting.card import Card
from lapa.reporting.probes.bodies import check_bodies
from lapa.reporting.probes.motion import find_known_motion
from lapa.reporting.settings import ReportSettings
from tests.builders.corpora import write_corpus
from tests.builders.lam import lam_settings

QUICK = ReportSettings(budgets=(16,), bootstrap=50, draws=2, untrained_seeds=1, reconstructions=24)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people, robot: corpora; lam: a model of both; and the latents of each."""
    home = tmp_path_factory.mktemp("bodies")
    write_corpus(home / "people", range(20, 28), truth=True)
    write_corpus(home / "robot", range(30, 38), truth=True, embodiment="arm")
    train_lam.run(lam_settings((home / "people", home / "robot"), home / "lam", steps=2), quiet=True)
    for name in ("people", "robot"):
        extract.run(
            extract.ExtractConfig(
                lam=home / "lam", corpus=home / name, out=home / f"{name}_latents", measure_s=0.0, device="cpu"
            )
        )
    return home


def report(home: Path, out: Path, **changes: object) -> Card:
    both = {name: (home / f"people{name}", home / f"robot{name}") for name in ("", "_latents")}
    config = ReportConfig(both[""], both["_latents"], out, home / "lam", settings=QUICK)
    return run(replace(config, **changes))  # type: ignore[arg-type]


def test_a_report_on_several_corpora_tells_both_ways_and_is_kept(home: Path, tmp_path: Path, capsys) -> None:
    card = report(home, tmp_path)
    assert [(each.fitted_on, each.tested_on) for each in card.bodies] in (
        [("arm", "hand"), ("hand", "arm")],
        [("hand", "arm"), ("arm", "hand")],
    )
    assert set(card.probes) == {"arm", "hand"}  # and of each body its own, as ever
    for each in card.bodies:
        assert set(each.scores) == {"latent", "pca", "shuffled"} and set(each.few) == {"16"} and each.pairs > 50
        assert each.scores["latent"].r2_mean == pytest.approx(np.mean(each.r2))
    assert Card.from_json(json.loads((tmp_path / "report.json").read_text())).bodies == card.bodies
    assert "arm to hand" in capsys.readouterr().out
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "Does it mean the same on another body?" in page and "hand to arm, PCA of the difference" in page


def test_latents_that_mean_the_same_are_told_from_those_that_do_not(home: Path) -> None:
    both = open_corpora([home / "people", home / "robot"])
    sample = Latents([home / "people_latents", home / "robot_latents"]).sample(1000)
    known, _ = find_known_motion(sample, both.truth(), "observation.state", (0, 1))
    thumbs = np.random.default_rng(0).integers(0, 255, (len(sample), 2, 8, 8, 3)).astype(np.uint8)

    def r2(turned: str) -> dict[str, float]:
        """Where a body's latents hold its motion, that of one the other way round."""
        latent = np.random.default_rng(1).normal(0, 0.1, (len(sample), 4)).astype(np.float32)
        for motion in known:
            latent[motion.rows, :2] += motion.y * (-1 if motion.embodiment == turned else 1)
        changed: LatentSample = replace(sample, latent=latent)
        found = check_bodies(known, changed, thumbs, QUICK)
        assert all(abs(each.scores["shuffled"].r2_mean) < 0.3 for each in found)
        return {each.tested_on: each.scores["latent"].r2_mean for each in found}

    assert min(r2("").values()) > 0.9 and max(r2("arm").values()) < -1
    one, _ = find_known_motion(sample, both.truth(), "observation.state", (0,))
    assert [each.dims for each in check_bodies([known[0], one[1]], sample, thumbs, QUICK)] == [[0], [0]]
    assert not check_bodies(known[:1], sample, thumbs, QUICK)


def test_corpora_and_latents_that_do_not_go_together_are_refused(home: Path, tmp_path: Path) -> None:
    people, robot = home / "people_latents", home / "robot_latents"
    with pytest.raises(ValueError, match="people' has none of the latents '.*robot_latents': give one folder for each"):
        report(home, tmp_path, latents=robot)
    with pytest.raises(ValueError, match="people_latents' are of another corpus than '.*robot'"):
        report(home, tmp_path, corpus=home / "robot", latents=(robot, people))
    with pytest.raises(ValueError, match="people_latents' are of another corpus"):
        report(home, tmp_path, corpus=home / "robot", latents=people)
    shutil.copytree(robot, tmp_path / "again")
    with pytest.raises(ValueError, match="robot_latents' and '.*again' are latents of the same corpus"):
        report(home, tmp_path, latents=(robot, tmp_path / "again"))
    assert not (tmp_path / "report.json").exists()
    other = tmp_path / "other"
    extract.run(
        extract.ExtractConfig(
            lam=home / "lam", corpus=home / "robot", out=other, gap_s=0.3, measure_s=0.0, device="cpu"
        )
    )
    with pytest.raises(ValueError, match="not of one model, gap and stride.*extract each corpus alike"):
        report(home, tmp_path / "out", latents=(people, other))


def test_what_was_opened_of_several_is_not_taken_for_the_first(home: Path, tmp_path: Path) -> None:
    both = open_corpora([home / "people", home / "robot"])
    for job in (lapa.extract, jobs.extract, jobs.train_lam):
        given = {"corpus": both, "out": tmp_path} | ({} if job is jobs.train_lam else {"lam": home / "lam"})
        with pytest.raises(
            ValueError, match="are several corpora.*give one after the other, or, where several are taken"
        ):
            job(**given)
    latents = Latents([home / "people_latents", home / "robot_latents"])
    for what in ("folder", "key", "summary"):
        with pytest.raises(ValueError, match="people_latents', '.*robot_latents' lie in several folders"):
            getattr(latents, what)
    with pytest.raises(ValueError, match="no folder of latents is named"):
        Latents([])
