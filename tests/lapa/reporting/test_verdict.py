"""The rules of a report's verdict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lapa.reporting.card import FEATURES, CameraProbe, Card, Reason, Transfer, Verdict
from lapa.reporting.scores import MeanScore
from lapa.reporting.verdict import judge
from lapa.reporting.weighed import WEIGHED
from tests.builders.cards import BODY, difference, good_card, score


def changed(value: Any, changes: Any) -> Any:
    """A card or a part of it with some fields replaced, and some fields of those."""
    if not isinstance(changes, dict) or not changes:
        return changes
    if isinstance(value, dict):
        return {**value, **{name: changed(value.get(name), change) for name, change in changes.items()}}
    return dataclasses.replace(value, **{name: changed(getattr(value, name), c) for name, c in changes.items()})


def probe(**readout: Any) -> dict[str, Any]:
    """A change of what the probe found with all labels."""
    return {"probes": {BODY: {"readout": readout}}}


def test_a_sound_model_is_trusted() -> None:
    verdict = judge(good_card(), BODY)
    assert verdict.level == "trust"
    assert all(reason.kind == "good" for reason in verdict.reasons)
    assert "0.80 [0.75, 0.85]" in verdict.text


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"codes": {"collapsed": True, "used": 1, "perplexity": 1.0}}, "do not trust", "codes have collapsed"),
        ({"codes": {"thin": True, "used": 7, "perplexity": 5.0}}, "trust with care", "7 of 16 codes"),
        ({"latent": {"collapsed": True, "effective_dims": 1.1}}, "do not trust", "1.1 of 128 dimensions"),
        (probe(scores={"latent": score(0.3, 0.2, 0.4)}), "trust with care", "that is weak"),
        (probe(scores={"latent": score(0.03, -0.1, 0.1)}), "do not trust", "no dependable relation"),
        (probe(difference={"shuffled": difference(0.01)}), "do not trust", "no dependable relation"),
        (probe(difference={"pca": difference(0.0)}), "trust with care", "not clearly above PCA"),
        (probe(difference={"pca": difference(-0.2)}), "trust with care", "but above it with 64 labelled"),
        (probe(difference={"vision": difference(0.3)}), "trust", "above a frozen vision model's features"),
        (probe(difference={"vision": difference(0.0)}), "trust with care", "not clearly above a frozen vision model"),
        ({"camera": {"r2_mean": 0.8}}, "trust with care", "camera's movement"),
        ({"cuts": {"explained": 0.9}}, "do not trust", "still rebuilds the second frame"),
        ({"cuts": {"continuous_explained": 0.9}}, "do not trust", "still rebuilds the second frame"),
        ({"cuts": {"continuous_explained": 0.72}}, "trust with care", "much of the second frame is rebuilt"),
        ({"cuts": {"continuous_explained": 0.9, "guess_explained": 0.85}}, "trust with care", "a guess"),
        ({"cuts": None, "appearance": None}, "trust", "Trust."),
        ({"appearance": {"r2": 0.7, "beyond_difference": 0.67}}, "do not trust", "copies the second frame: R2 0.70"),
        ({"appearance": {"r2": 0.7, "beyond_difference": 0.67, "first_r2": 0.8}}, "do not trust", "copies the scene"),
        ({"appearance": {"r2": 0.5, "beyond_difference": 0.44}}, "trust", "no picture of the second frame"),
        ({"probes": {}, "appearance": {"beyond_difference": 0.9}}, "do not trust", "copies the second frame"),
        ({"reconstruction": {"random_code_explained": 0.5}}, "trust with care", "does not heed the code"),
        ({"reconstruction": {"random_code_explained": 0.35}}, "trust with care", "nearly as well"),
        ({"reconstruction": {"random_code_explained": 0.3}}, "trust", "predicts the second frame"),
        ({"warnings": ["A thing."]}, "trust with care", "A thing."),
        ({"probes": {}}, "cannot tell", "No known actions"),
        ({"probes": {}, "reconstruction": {"explained": -0.1}}, "do not trust", "no better than a copy"),
        ({"codes": None}, "trust", "Trust."),
    ],
)
def test_the_verdict_says_what_is_wrong(change: dict[str, Any], level: str, words: str) -> None:
    verdict = judge(changed(good_card(), change), BODY)
    assert verdict.level == level
    assert words in verdict.text


def test_worse_than_an_untrained_network_at_every_budget_is_useless() -> None:
    worse = {"untrained": difference(-0.1)}
    card = changed(good_card(), probe(difference=worse))
    few = changed(card.probes[BODY].budgets[0], {"difference": worse})
    assert judge(changed(card, {"probes": {BODY: {"budgets": [few]}}}), BODY).level == "do not trust"


def test_each_body_has_a_verdict_of_its_own() -> None:
    card = good_card(embodiments=[BODY, "hand", "leg"], probe_notes=["leg: observation.state does not move"])
    assert judge(card, BODY).level == "trust"
    assert judge(card, "hand").level == judge(card, "leg").level == "cannot tell"
    assert "(no clip of this body has ground truth)" in judge(card, "hand").text
    assert "(observation.state does not move)" in judge(card, "leg").text
    weak = changed(card.probes[BODY], {"readout": {"scores": {"latent": score(0.3, 0.2, 0.4)}}, "warnings": ["Seen."]})
    card = changed(card, {"probes": {"hand": weak, BODY: {"warnings": ["Few."]}}, "warnings": ["All."]})
    assert "that is weak" in judge(card, "hand").text and "that is weak" not in judge(card, BODY).text
    texts_of = {body: [reason.text for reason in judge(card, body).reasons] for body in (BODY, "hand", "leg")}
    own = {body: [text for text in ("All.", "Few.", "Seen.") if text in texts] for body, texts in texts_of.items()}
    assert own == {BODY: ["All.", "Few."], "hand": ["All.", "Seen."], "leg": ["All."]}


DECODED = ("explained", "continuous_explained", "random_code_explained", "shuffled_code_explained", "pca_explained")
EXTREMES = (-3.0, 0.0, 0.5, 0.99)


def kinds(card: Card) -> list[str]:
    verdict = judge(card, BODY)
    return [verdict.level, *(reason.kind for reason in verdict.reasons)]


def sways(cards: list[Card], change: Any) -> bool:
    """Whether the verdict on one of them depends on what `change` sets to some value."""
    return any(kinds(changed(card, change(value))) != kinds(card) for card in cards for value in EXTREMES)


def test_the_verdict_weighs_what_the_page_says_that_it_weighs() -> None:
    copying = changed(good_card(), {"cuts": {"continuous_explained": 0.9}})
    guessed = changed(copying, {"cuts": {"guess_explained": -3.0}})
    cards = [good_card(), copying, guessed]
    for part, names in (("reconstruction", DECODED), ("cuts", (*DECODED, "guess_explained", "real_explained"))):
        found = {name for name in names if sways(cards, lambda value, p=part, n=name: {p: {n: value}})}
        assert found == WEIGHED[part]
    assert sways(cards, lambda value: {"camera": {"r2_mean": value}})
    beside = MeanScore(0.0, (0.0, 0.0))
    for name in ("pca", "shuffled"):  # the camera's baselines
        assert not sways(
            cards, lambda value, n=name: {"camera": {"baselines": {n: dataclasses.replace(beside, r2_mean=value)}}}
        )
    found = set()
    for name in FEATURES:
        of = {"scores": {name: score(0.0, 0.0, 0.0)}} if name == "latent" else {"difference": {name: difference(0.0)}}
        if kinds(changed(good_card(), probe(**of))) != kinds(good_card()):
            found.add(name)
    assert found == WEIGHED["probe"]
    assert not sways(cards, lambda value: {"transfer": Transfer(value, 0.0, None, 0)})


def test_a_verdict_prints_as_a_title_and_a_marked_line_a_reason() -> None:
    verdict = Verdict("trust with care", (Reason("bad", "a"), Reason("concern", "b"), Reason("good", "c")))
    assert str(verdict) == "Trust with care\n x a\n ! b\n + c"


def test_a_card_comes_back_from_its_json() -> None:
    card = good_card(camera=CameraProbe(None, None, "the camera stands still", truth=CameraProbe(0.1, (0.0, 0.2))))
    card = changed(card, {"warnings": ["All."], "probes": {BODY: {"warnings": ["Few."]}}})
    card = dataclasses.replace(card, verdicts={BODY: judge(card, BODY)})
    assert card.to_json()["warnings"] == ["All.", "Few."]
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card
    with pytest.raises(ValueError, match="effective_dims.*run giza report again"):
        Card.from_json(changed(card.to_json(), {"latent": {"dim": 3, "effective_dims": "many"}}))


def test_the_page_of_a_card_without_images_says_what_the_card_does(tmp_path: Path) -> None:
    card = good_card(warnings=["A <b>thing</b> & more."])
    dataclasses.replace(card, verdicts={BODY: judge(card, BODY)}).save_html(tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text("utf-8")
    assert "Trust with care" in page and "A &lt;b&gt;thing&lt;/b&gt; &amp; more." in page
    assert "keeps no images" in page and "<img" not in page


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"warnings": []}, "train on them: label = 'latent'"),
        ({"codes": {"collapsed": True, "used": 1, "perplexity": 1.0}}, "use the continuous latent as the label"),
        (
            probe(difference={"pca": difference(-0.2)}),
            "until the latent is above it, that baseline is the cheaper label",
        ),
        (probe(difference={"vision": difference(-0.2)}), "train on such features"),
        ({"warnings": ["The videos were trained on."]}, "mind the concerns"),
    ],
)
def test_every_verdict_says_what_to_do_next(change: dict[str, Any], step: str) -> None:
    verdict = judge(changed(good_card(), change), BODY)
    assert any(step in found for found in verdict.next_steps)
    assert Verdict(verdict.level, verdict.reasons).to_json()["next_steps"] == list(verdict.next_steps)


def test_what_is_bad_has_a_remedy() -> None:
    """Of each reason that can stop a training."""
    for change in (
        {"codes": {"collapsed": True, "used": 1, "perplexity": 1.0}},
        {"latent": {"collapsed": True, "effective_dims": 1.1}},
        {"cuts": {"explained": 0.9}},
        {"appearance": {"r2": 0.7, "beyond_difference": 0.67}},
        probe(scores={"latent": score(0.03, -0.1, 0.1)}),
    ):
        verdict = judge(changed(good_card(), change), BODY)
        assert verdict.level == "do not trust" and all(r.remedy for r in verdict.reasons if r.kind == "bad")


def test_each_number_of_labels_is_told_with_its_own_difference() -> None:
    card = changed(good_card(), probe(difference={"pca": difference(0.0)}))
    told = judge(card, BODY).text
    at_64 = next(b for b in card.probes[BODY].budgets if b.labels == 64).difference["pca"]
    assert "not clearly above PCA of the difference with all labels (+0.00 [" in told
    assert f"above it with 64 labelled pairs ({at_64.mean:+.2f} [" in told
