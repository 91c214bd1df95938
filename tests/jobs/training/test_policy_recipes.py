"""What each recipe trains (V6), and that features of what is frozen are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import parse
from jobs.commands.ground import GroundConfig
from jobs.functions import configured
from jobs.training.settings import SETS
from tests.builders.policies import tiny_bc, tiny_policy
from tests.builders.recipes import small_of
from vla.data.loader import cacheable
from vla.recipes import EVERYTHING, FIELDS, FROZEN_VLM, RECIPES
from vla.tuning import apply_tuning

HEAD = {"projector", "dit", "embodiment_layers", "action_position"}
WORLD = {
    *("words", "word_position", "frame", "noised_picture", "grid", "camera", "moment", "action_position", "dit"),
    *("picture_velocity", "action_state", "embodiment_layers"),
}
VISION = {"vlm.vision_model", "vlm.connector"}
TRAINED = {
    "small_dino": HEAD,
    "bc_dino": {"reader", "instruction", "head"},
    "dreamzero": WORLD,
    "n1": HEAD | VISION,
    "n1_5": HEAD | {"future"},
    "n1_7": HEAD,
    "n1_6": (HEAD | {"no_state"} | {f"layer {number}" for number in (2, 3, 4, 5)}),
}
"""Recipe -> parts of the policy of which something is trained (REFERENCE.md, section 2)."""


def part(name: str) -> str:
    words = name.split(".")
    if words[0] != "backbone" or words[1] != "vlm":
        return words[0]
    return f"layer {words[4]}" if words[2:4] == ["text_model", "layers"] else ".".join(words[1:3])


@pytest.mark.parametrize("name", list(RECIPES))
def test_each_recipe_trains_what_its_model_trained(name: str) -> None:
    policy = small_of(name)
    if policy.tunable:
        apply_tuning(policy, FIELDS[name]["tuning"], log=lambda _: None)  # type: ignore[arg-type]
    trained = {
        part(parameter) for parameter, value in policy.named_parameters() if value.requires_grad and value.numel()
    }
    everything = {part(parameter) for parameter, value in policy.named_parameters() if value.numel()}
    assert trained == TRAINED.get(name, everything)
    assert (
        cacheable(policy) == (name in {"n1_5", "n1_7", "small_dino", "bc_dino", "dreamzero"})
        and RECIPES[name].training.cache_features
    )


def test_of_a_policy_that_was_trained_before_the_eyes_stay_frozen_whatever_the_recipe(tmp_path: Path) -> None:
    """--policy sets it, as the model: `--recipe small`, the default, would train the vision tower of any policy."""
    for folder, policy, want in (
        ("small", tiny_policy(), EVERYTHING),
        ("bc", tiny_bc(), EVERYTHING),
        ("n1_6", small_of("n1_6"), FROZEN_VLM),
        ("small_dino", small_of("small_dino"), FROZEN_VLM),
    ):
        policy.save_pretrained(tmp_path / folder)
        given = {"data": "d", "out": "o", "policy": str(tmp_path / folder)}
        for recipe in ("small", "n1_6"):
            assert configured(GroundConfig, given, recipe=recipe, recipes=FIELDS, sets=SETS).tuning == want
    more = {**given, "tuning": {"vlm_top_layers": 4}}
    assert configured(GroundConfig, more, recipe="small", recipes=FIELDS, sets=SETS).tuning.vlm_top_layers == 4


@pytest.mark.parametrize("part", ["vlm", "vision"])
def test_a_model_that_is_brought_by_name_stays_frozen_unless_it_is_asked_for(part: str, tmp_path: Path) -> None:
    """The recipe trains all of a policy from scratch; its vision tower was trained with it, silently."""
    given = {"data": str(tmp_path), "out": "o", "model": {part: {"name": "some/model"}}}
    flags = ["--data", str(tmp_path), "--out", "o", f"--model.{part}.name", "some/model"]

    def tuning(recipe: str, given: dict, more: tuple[str, ...] = ()) -> set:
        by_name = configured(GroundConfig, given, recipe=recipe, recipes=FIELDS, sets=SETS)
        by_flag = parse(GroundConfig, [*flags, "--recipe", recipe, *more], job="ground", recipes=FIELDS, sets=SETS)
        return {by_name.tuning, by_flag.tuning}

    assert tuning("small", given) == {FROZEN_VLM}
    asked = {**given, "tuning": {"vision": True}}
    assert tuning("small", asked, ("--tuning.vision",)) == {EVERYTHING}
    if part == "vlm":  # another model in the place of the recipe's own is trained as that is
        assert tuning("n1", given) == {RECIPES["n1"].tuning}
        assert tuning("n1_6", given) == {RECIPES["n1_6"].tuning}
    else:
        assert tuning("bc", given) == {EVERYTHING}
