"""What an evaluation says in words."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.evaluation.statistics import wilson
from jobs.evaluation.verdict import (
    ALONE,
    CHANCE,
    FEW_EPISODES,
    HARDLY,
    RELIABLE,
    WIDE,
    closed_loop_verdict,
    open_loop_verdict,
    verdicts,
)


def opened(
    still: float, last: float, mean: float = 0.05, *, half: float = 0.1, episodes: int = 6, standing: str = "held out"
) -> dict[str, Any]:
    """The policy's squared error is `still` times that of holding still, and so on; intervals reach `half` of it to both sides."""
    ratios = {"hold_still": still, "repeat_last": last, "mean_chunk": mean}

    def known(value: float) -> dict[str, Any]:
        return {
            "value": value,
            "bootstrap95": [value * (1 - half), value * (1 + half)] if episodes > 1 else [None, None],
        }

    errors = {"policy": 1.0, **{name: 1 / ratio for name, ratio in ratios.items()}}
    return {
        "samples": 30,
        "episodes": episodes,
        "standing": standing,
        "dimensions": ["elbow", "wrist", "thumb"],
        "moving": [True, True, False],
        "normalised_squared_error": {name: known(error) for name, error in errors.items()},
        "policy_over_baseline": {name: known(ratio) for name, ratio in ratios.items()},
        "std": [0.1, 0.2, 0.0],
        "squared_error_per_dimension": {
            name: {"value": [error, error, 0.0], "bootstrap95": [[None] * 3] * 2} for name, error in errors.items()
        },
        "normalised_squared_error_per_step": {name: [error, error] for name, error in errors.items()},
    }


@pytest.mark.parametrize(
    ("still", "last", "kind", "words"),
    [
        (0.2, 0.36, "good", "better than every baseline on 6 held-out episodes (x0.36, [0.32, 0.40] of the squared error of the best, "),
        (0.2, 0.36, "good", "repeating the last action)"),
        (10, 0.2, "bad", "ten times worse than holding still on 6 held-out episodes (x10, [9.0, 11] of its squared error): do not run"),
        (27, 20, "bad", "27 times worse than holding still"),
        (1.2, 0.2, "bad", "worse than holding still on 6 held-out episodes (x1.2, [1.1, 1.3] of its squared error): do not run this"),
        (1.05, 0.2, "concern", "not told apart from holding still"),
        (1.05, 0.98, "concern", "not told apart from holding still"),
        (0.2, 0.97, "concern", "better than holding still, but not told apart from repeating the last action"),
        (0.2, 3, "concern", "better than holding still, but three times worse than repeating the last action"),
        (1.05, 3, "bad", "three times worse than repeating the last action"),
    ],
)  # fmt: skip
def test_beside_the_baselines(still: float, last: float, kind: str, words: str) -> None:
    found = open_loop_verdict(opened(still, last))
    assert words in found.headline and found.kind == kind
    assert ("do not run this on a robot" in found.headline) == (still in (10, 27, 1.2))


def test_intervals_decide_and_not_the_estimates() -> None:
    assert open_loop_verdict(opened(0.5, 0.8, half=0.1)).kind == "good"
    assert "not told apart from repeating" in open_loop_verdict(opened(0.5, 0.8, half=0.3)).headline
    assert "not told apart from holding" in open_loop_verdict(opened(4, 0.2, half=0.9)).headline
    assert open_loop_verdict(opened(0.5, HARDLY + 0.01, half=0.05)).headline.startswith(
        "hardly better than every baseline"
    )


def test_a_third_baseline_that_is_not_beaten_is_named() -> None:
    """The best is not the only one: an interval of another may reach beyond 1."""
    found = opened(0.5, 0.6)
    found["policy_over_baseline"]["mean_chunk"]["bootstrap95"] = [0.01, 1.2]
    assert "not told apart from the mean chunk" in open_loop_verdict(found).headline


def test_of_one_episode_only_much_counts() -> None:
    alone = {"episodes": 1}
    for ratio, words in (
        (0.9 / ALONE, "better than every baseline on 1 held-out episode (x0.45 of"),
        (1.1 / ALONE, "not told apart from holding still"),
        (0.9 * ALONE, "not told apart from holding still"),
        (1.1 * ALONE, "two times worse than holding still"),
    ):
        found = open_loop_verdict(opened(ratio, ratio, **alone))
        assert words in found.headline and "[" not in found.headline and found.kind != "good"
        assert any("there is no interval" in text for _, text in found.reasons)
    few = open_loop_verdict(opened(0.2, 0.3, episodes=FEW_EPISODES - 1))
    assert few.kind == "concern" and "too narrow" in few.reasons[0][1]
    assert open_loop_verdict(opened(0.2, 0.3, episodes=FEW_EPISODES)).kind == "good"


def test_one_episode_of_an_earlier_version_has_no_interval_either() -> None:
    found = opened(0.9, 0.9, half=0.0, episodes=2) | {"episodes": 1}
    assert "not told apart" in open_loop_verdict(found).headline


def test_what_was_trained_on_is_remembered_and_not_judged() -> None:
    found = open_loop_verdict(opened(0.2, 0.3, standing="trained on"))
    assert found.kind == "concern" and found.headline.startswith(
        "remembers what it was trained on, and more is not known: better"
    )
    assert "6 trained-on episodes" in found.headline
    assert open_loop_verdict(opened(3, 3, standing="trained on")).headline.startswith(
        "three times worse than holding still"
    )
    for standing, words in (("partly trained on", "Some of these"), ("not known", "is not known")):
        doubted = open_loop_verdict(opened(0.2, 0.3, standing=standing))
        assert doubted.kind == "concern" and words in doubted.reasons[0][1]
    other = open_loop_verdict(opened(0.2, 0.3, standing="other data"))
    assert other.kind == "good" and "of data it was not trained on" in other.headline


def test_where_it_is_worse_is_said() -> None:
    found = opened(0.2, 0.3)
    found["squared_error_per_dimension"]["policy"]["value"] = [0.1, 9.0, 5.0]
    found["normalised_squared_error_per_step"]["policy"] = [99.0, 0.1]
    texts = {text: kind for kind, text in open_loop_verdict(found).reasons}
    assert texts["Farther off than holding still in 1 of 2 dimensions: wrist."] == "concern"
    assert texts["At step 1 of 2 a baseline is nearer, first repeating the last action."] == "concern"


def test_without_numbers_nothing_is_judged() -> None:
    found = opened(0.2, 0.3)
    found["policy_over_baseline"]["hold_still"]["value"] = None  # its error is 0
    found["normalised_squared_error"]["hold_still"]["value"] = 0.0
    assert "holding still makes no error" in open_loop_verdict(found).headline
    assert open_loop_verdict(found).kind == "unknown"
    found = opened(0.2, 0.3)
    found["normalised_squared_error"]["policy"]["value"] = None
    assert open_loop_verdict(found).kind == "unknown"


def closed(won: int, played: int, **language: tuple[int, int]) -> dict[str, Any]:
    shares = {"reach": wilson(won, played).to_json(), "all": wilson(won, played).to_json()}
    return {"success": shares, "language": {name: wilson(*counts).to_json() for name, counts in language.items()}}


@pytest.mark.parametrize(
    ("won", "played", "kind", "words"),
    [
        (115, 120, "good", "does its tasks: 115 of 120 rollouts from unseen starts succeed, 91% to 98%"),
        (80, 120, "concern", "succeeds more often than not"),
        (10, 20, "concern", "whether it succeeds more often than not is not told"),
        (20, 120, "bad", "fails more often than not"),
        (0, 20, "bad", "never does its tasks: 0 of 20 rollouts from unseen starts succeed, 0% to 16%"),
        (0, 0, "unknown", "nothing to say"),
    ],
)
def test_rollouts(won: int, played: int, kind: str, words: str) -> None:
    found = closed_loop_verdict(closed(won, played))
    assert words in found.headline and found.kind == kind


def test_thresholds_of_shares_are_of_bounds() -> None:
    for won in range(61):
        share = wilson(won, 60)
        found = closed_loop_verdict(closed(won, 60))
        assert (found.kind == "good") == (share.low >= RELIABLE)
        assert (found.kind == "bad") == (share.high < CHANCE)
    few, enough = (closed_loop_verdict(closed(n // 2, n)).reasons for n in (10, 20))
    assert "rollouts are few" in few[0][1] and "rollouts are few" not in enough[0][1]
    assert wilson(10, 20).high - wilson(10, 20).low < WIDE


@pytest.mark.parametrize(
    ("told", "words"), [(72, "it listens"), (42, "is not told apart from one that does not"), (20, "does not do as")]
)
def test_words_to_the_faucet(told: int, words: str) -> None:
    texts = [
        text for _, text in closed_loop_verdict(closed(80, 80, compliance=(told, 80), blank_turned=(3, 40))).reasons
    ]
    assert words in texts[1] and "3 of 40" in texts[2]


def test_the_worst_comes_first_and_of_two_alike_the_rollouts() -> None:
    for ratio, won, first in ((0.2, 115, "closed_loop"), (10, 115, "open_loop"), (10, 0, "closed_loop")):
        assert next(iter(verdicts({"open_loop": opened(ratio, 0.3), "closed_loop": closed(won, 120)}))) == first
    assert verdicts({"policy": "x"}) == {}
