"""M12: what a policy reads of an instruction: signs, one form of the same text, and what is cut or not told apart."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.text import unread, words_of
from tests.builders.policies import SIZE, teach
from tests.builders.robots import know_made_robots, made_robot
from tests.builders.vlms import some_images, tiny_backbone
from vla.checkpoint import build_policy
from vla.data.open import open_mixture
from vla.models.config import SmallBackboneConfig, from_dict, to_dict
from vla.models.small import SmallBackbone
from vla.policy import Policy
from vla.recipes import DEBUG, recipe_named

ACCENTED = "öffne die Tür ½ weit"


def small(**changes: object) -> SmallBackbone:
    return SmallBackbone(replace(SmallBackboneConfig(), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("turn -30 degrees", "turn 30 degrees"),
        ("turn \u221230", "turn 30"),
        ("turn -30deg", "turn 30deg"),
        ("move 0.5 m", "move 5 m"),
        ("move 1.5 cm", "move 15 cm"),
    ],
)
def test_texts_that_mean_something_else_have_other_tokens(first: str, second: str) -> None:
    assert small().read_text(first) != small().read_text(second)


def test_a_dash_within_words_is_no_sign() -> None:
    assert words_of("pick-and-place, slot-3, the x-axis; (-2.5)") == [
        "pick",
        "and",
        "place",
        "slot",
        "3",
        "the",
        "x",
        "axis",
        "-2.5",
    ]


@pytest.mark.parametrize("policy", ["small", "bc"])
def test_texts_that_look_alike_have_the_same_tokens(policy: str) -> None:
    """Composed and decomposed accents, wide letters, and either minus."""
    read = build_policy(recipe_named("bc").policy if policy == "bc" else DEBUG).read_text
    assert read(unicodedata.normalize("NFD", ACCENTED)) == read(unicodedata.normalize("NFC", ACCENTED))
    assert read("turn \u22125") == read("turn -5") and read("\uff4f\uff50\uff45\uff4e") == read("open")


def test_a_vision_language_model_reads_one_form() -> None:
    backbone = tiny_backbone(layer=2)
    decomposed, composed = (unicodedata.normalize(form, ACCENTED) for form in ("NFD", "NFC"))
    assert backbone.read_text(decomposed) == backbone.read_text(composed) != backbone.read_text("open")
    images, there = some_images(2), torch.ones(2, 2, 1, dtype=torch.bool)
    images[1] = images[0]
    tokens = backbone.prepare(images, there, [decomposed, composed])["input_ids"]
    assert torch.equal(tokens[0], tokens[1])


def test_what_is_cut_and_what_cannot_be_told_apart_is_said() -> None:
    same = " ".join(f"word{k}" for k in range(28))
    texts = [f"{same} left", f"{same} right", "open it", "Open it.", "close it"]
    cut, alike = unread(texts, small().read_text, "the policy")
    assert cut.startswith("the policy cuts 2 of 5 instructions, by up to 5 tokens: 2 such as 'word0 word1")
    assert alike.startswith("the policy reads 2 of 5 instructions as the same as another, such as 'word0")
    assert alike.endswith("it cannot learn what tells them apart")
    assert unread(texts, small(max_words=29).read_text, "it") == unread(texts, lambda text: None, "it") == []


def test_training_warns_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    know_made_robots(monkeypatch)
    long = " ".join(["very"] * 24)
    tasks = [f"go {long} left", f"go {long} right"] * 2
    folder = made_robot(tmp_path / "pick", None, np.random.default_rng(0).normal(size=(4, 6, 2)), tasks=tasks)
    spec = DatasetSpec("pick", "robot", EpisodesAt(folder), embodiment="arm")
    open_mixture(MixtureSpec((spec,)), build_policy(DEBUG), cache=tmp_path / "cache")
    assert "cuts 2 of 2 instructions" in caplog.text and "2 of 2 instructions as the same as another" in caplog.text


def test_acting_tells_once_what_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    policy = build_policy(DEBUG).eval()
    teach(policy, "arm", 2, 2)
    images, there = torch.zeros(2, 1, 1, 3, SIZE, SIZE, dtype=torch.uint8), torch.ones(2, 1, 1, dtype=torch.bool)
    long = " ".join(["very"] * 30)
    for _ in range(2):
        policy.act_batch(images, there, ["open", long], np.zeros((2, 2)), "arm")
    assert [record.getMessage() for record in caplog.records] == [
        f"the policy reads 24 tokens of '{long}' and cuts the last 6"
    ]


def test_a_policy_of_before_reads_on_as_it_learned_to(tmp_path: Path) -> None:
    """Its words had no signs: another token would be one that it never saw."""
    policy = build_policy(DEBUG)
    assert policy.config.small.text_format == 2
    policy.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["policy"]["small"]["text_format"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    old = Policy.from_pretrained(tmp_path)
    assert old.read_text("turn -30") == old.read_text("turn 30") != policy.read_text("turn -30")
    assert old.read_text("open the drawer") == policy.read_text("open the drawer")
    assert from_dict(to_dict(old.config)) == old.config
