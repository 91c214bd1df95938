"""The rules of a report's verdict."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lapa.reporting.verdict import judge


def interval_cell(mean: float, width: float = 0.05) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - width, mean + width]}


def good_card() -> dict[str, Any]:
    """What a report on a sound model says."""
    difference = {"first_frame": 0.6, "untrained": 0.1, "pca": 0.08, "shuffled": 0.8}
    return {
        "codes": {"size": 16, "used": 16, "perplexity": 13.0, "collapsed": False, "thin": False},
        "latent": {"collapsed": False, "effective_dims": 20.0, "dim": 128},
        "reconstruction": {
            "explained": 0.5, "random_code_explained": -0.2, "psnr_db": 25.0, "copy_psnr_db": 22.0,
            "random_code_psnr_db": 21.0, "on": "held-out videos",
        },
        "probe": {
            "target": "the change of observation.state", "gap_s": 0.5,
            "latent": {"r2_mean": 0.8, "ci95": [0.75, 0.85]},
            "difference": {name: interval_cell(mean) for name, mean in difference.items()},
            "budgets": {"64": {"labels": 64, "difference": {name: interval_cell(m) for name, m in difference.items()}}},
        },
        "camera": {"r2_mean": 0.1},
        "cuts": {"explained": 0.1, "real_explained": 0.5},
        "warnings": [],
    }  # fmt: skip


def test_a_sound_model_is_trusted() -> None:
    verdict = judge(good_card())
    assert verdict.level == "trust"
    assert all(reason.kind == "good" for reason in verdict.reasons)
    assert "0.80 [0.75, 0.85]" in verdict.text


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"codes": {"collapsed": True, "used": 1, "perplexity": 1.0}}, "do not trust", "codes have collapsed"),
        ({"codes": {"thin": True, "used": 7, "perplexity": 5.0}}, "trust with care", "7 of 16 codes"),
        ({"latent": {"collapsed": True, "effective_dims": 1.1}}, "do not trust", "1.1 of 128 dimensions"),
        ({"probe": {"latent": {"r2_mean": 0.3, "ci95": [0.2, 0.4]}}}, "trust with care", "that is weak"),
        ({"probe": {"latent": {"r2_mean": 0.03, "ci95": [-0.1, 0.1]}}}, "do not trust", "no dependable relation"),
        ({"probe": {"difference": {"shuffled": interval_cell(0.01)}}}, "do not trust", "no dependable relation"),
        ({"probe": {"difference": {"pca": interval_cell(0.0)}}}, "trust with care", "not clearly above PCA"),
        ({"probe": {"difference": {"pca": interval_cell(-0.2)}}}, "trust with care", "but above it with 64 labelled"),
        ({"camera": {"r2_mean": 0.8}}, "trust with care", "camera's movement"),
        ({"cuts": {"explained": 0.9}}, "trust with care", "copies the second frame"),
        ({"reconstruction": {"random_code_explained": 0.5}}, "trust with care", "does not heed the code"),
        ({"reconstruction": {"random_code_explained": 0.35}}, "trust with care", "nearly as well"),
        ({"reconstruction": {"random_code_explained": 0.3}}, "trust", "predicts the second frame"),
        ({"warnings": ["A thing."]}, "trust with care", "A thing."),
        ({"probe": None}, "cannot tell", "No known actions"),
        ({"probe": None, "reconstruction": {"explained": -0.1}}, "do not trust", "no better than a copy"),
        ({"codes": None}, "trust", "Trust."),
    ],
)
def test_the_verdict_says_what_is_wrong(change: dict[str, Any], level: str, words: str) -> None:
    def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
        for name, value in changes.items():
            if isinstance(value, dict) and isinstance(into.get(name), dict):
                merge(into[name], value)
            else:
                into[name] = value

    card = good_card()
    merge(card, copy.deepcopy(change))
    verdict = judge(card)
    assert verdict.level == level
    assert words in verdict.text


def test_worse_than_an_untrained_network_at_every_budget_is_useless() -> None:
    card = good_card()
    for cell in (card["probe"], card["probe"]["budgets"]["64"]):
        cell["difference"]["untrained"] = interval_cell(-0.1)
    assert judge(card).level == "do not trust"
