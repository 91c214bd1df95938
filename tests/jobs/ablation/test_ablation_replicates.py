"""Ablations whose every seed is a replicate: intervals and power against slow references, and what is said of arms,
controls, baselines and the instrument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from jobs.ablation.findings import verdict
from jobs.ablation.intervals import Method, student
from jobs.ablation.power import critical, detectable, replicates_needed
from jobs.ablation.roles import arm_roles
from jobs.ablation.sentences import arm_words, instrument_words, power_words, reference_words
from jobs.ablation.statistics import summarise

Grid = NDArray[np.float64]
PROTOTYPE = {
    "robot-only": (13, 36, 48, 43, 24),
    "human-track": (41, 52, 61, 58, 34),
    "shuffled": (21, 42, 50, 39, 31),
}
"""Successes of 96 in each of five replicates, as our prototype of cross-painting had them."""


def grid_of(won: int, tasks: int = 6, starts: int = 16) -> Grid:
    """[tasks, starts] with so many successes, spread over the tasks."""
    flat = np.zeros(tasks * starts)
    flat[:won] = 1
    return flat.reshape(starts, tasks).T


def study(
    won: dict[str, tuple[int, ...]],
    roles: dict[str, str] | None = None,
    controls: dict[str, list[str]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """A result of the design transfer, at 1 demonstration, from successes of 96 in each replicate."""
    runs: list[dict[str, Any]] = []
    for arm, counts in won.items():
        for seed, count in enumerate(counts):
            run = {"arm": arm, "demos": 1, "seed": seed, "status": "done", "error": None}
            grid = grid_of(count)
            rollouts = [
                {"task": f"task{k}", "start": n, "success": bool(grid[k, n]), "steps": 9}
                for k in range(6)
                for n in range(16)
            ]
            runs.append({**run, "rollouts": rollouts, "curve": []})
    arms = [{"name": arm} for arm in won]
    for arm in arms:
        arm |= {"role": (roles or {})[arm["name"]]} if arm["name"] in (roles or {}) else {}
        arm |= {"controls": (controls or {})[arm["name"]]} if arm["name"] in (controls or {}) else {}
    seeds = max(map(len, won.values()))
    tasks = [f"task{k}" for k in range(6)]
    fixed = {"tasks": tasks, "demos": [1], "seeds": list(range(seeds)), "starts": 16, "design": "transfer"}
    return {"settings": {**fixed, **settings}, "arms": arms, "runs": runs}


def test_the_prototypes_replicates_give_the_interval_that_was_computed_by_hand() -> None:
    found = summarise(study(PROTOTYPE, controls={"human-track": ["shuffled"]}))
    lift = found.comparison("human-track", None, 1)
    assert lift.overall is not None and lift.over == "replicates"
    got = [100 * x for x in (lift.overall.value, lift.overall.low, lift.overall.high)]
    assert got == pytest.approx([17.1, 8.2, 26.0], abs=0.05)
    control = found.comparison("human-track", "shuffled", 1).overall
    assert control is not None
    assert [100 * x for x in (control.value, control.low, control.high)] == pytest.approx([13.1, 4.0, 22.2], abs=0.05)
    assert arm_words(found, "human-track", 1) == (
        "human-track lifts success by 17 points [8, 26] over robot-only at 1 demonstration. "
        "It beats its control shuffled by 13 points [4, 22]"
    )
    assert found.headline == "Success is lifted over robot-only by human-track at 1 demonstration"


def test_the_t_interval_is_scipys_and_its_p_the_paired_t_tests() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random((5, 4, 8)) < chance for chance in (0.6, 0.4))
    values = ours.astype(float) - theirs
    estimate, p, reach = student(values, -1.0)
    means = values.mean((1, 2))
    slow = stats.ttest_rel(ours.mean((1, 2)), theirs.mean((1, 2)))
    interval = slow.confidence_interval(0.95)
    assert (estimate.low, estimate.high, p) == pytest.approx((interval.low, interval.high, slow.pvalue))
    assert reach == pytest.approx(detectable(stats.sem(means), 4))


@pytest.mark.parametrize("replicates", [3, 5])
@pytest.mark.parametrize("between", [0.0, 0.12])
def test_the_t_interval_holds_the_true_difference_in_95_of_100_runs(replicates: int, between: float) -> None:
    """Luck of each replicate, of each arm in it and of its starts; the crossed bootstrap would be far too narrow here."""
    rng = np.random.default_rng(1)
    held, repeats, lift = 0, 2000, 0.1
    for _ in range(repeats):
        hard = rng.uniform(0.3, 0.5, (replicates, 6, 1)) + between * rng.uniform(-1, 1, (replicates, 1, 1))
        luck = between * rng.uniform(-1, 1, (2, replicates, 1, 1))
        chances = hard + luck[0], hard + lift + luck[1]
        theirs, ours = (rng.random((replicates, 6, 16)) < chance for chance in chances)
        estimate, _, _ = student(ours.astype(float) - theirs, -1.0)
        held += estimate.low <= lift <= estimate.high
    assert held / repeats == pytest.approx(0.95, abs=0.015)


def test_starts_of_a_replicate_are_its_own_so_that_their_order_says_nothing() -> None:
    rng = np.random.default_rng(2)
    grids = [(rng.random((6, 16)) < 0.5).astype(float) for _ in range(4)]
    method = Method("transfer", tuple(f"task{k}" for k in range(6)), 500, 0)
    mixed = [rng.permuted(grid, axis=1) for grid in grids]
    assert method.measure(grids, least=0.0) == method.measure(mixed, least=0.0)


def test_the_wide_view_resamples_replicates_and_tasks() -> None:
    rng = np.random.default_rng(3)
    chance = 0.5 + 0.25 * rng.uniform(-1, 1, (1, 6, 1)) + 0.1 * rng.uniform(-1, 1, (5, 1, 1))
    values = (rng.random((5, 6, 16)) < chance).astype(float)
    found = Method("transfer", tuple("abcdef"), 20_000, 0).measure(list(values), least=0.0)
    cells, slow = values.mean(2), []
    for _ in range(20_000):
        slow.append(cells[np.ix_(rng.integers(0, 5, 4), rng.integers(0, 6, 5))].mean())
    assert found.wide is not None and found.overall is not None
    assert (found.wide.low, found.wide.high) == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.01)
    assert Method("transfer", ("a",), 50, 0).measure(list(values[:, :1]), least=0.0).wide is None


def test_replicates_that_come_out_alike_are_as_uncertain_as_their_starts() -> None:
    won = {"robot-only": (30, 30, 30), "human-track": (48, 48, 48)}
    lift = summarise(study(won)).comparison("human-track", None, 1).overall
    assert lift is not None and lift.low < 18 / 96 - 0.02 < lift.value < 18 / 96 + 0.02 < lift.high
    never = summarise(study({"robot-only": (0, 0, 0), "human-track": (0, 0, 0)}))
    same = never.comparison("human-track", None, 1)
    assert same.overall is not None and same.overall.high == -same.overall.low > 0.03 and same.p == 1.0
    # a task that is always and one that is never solved tell no spread either
    halves = [np.array([[1.0] * 8, [0.0] * 8])] * 3
    for design in ("joint", "transfer"):
        found = Method(design, ("a", "b"), 200, 0).measure(halves, least=0.0).overall  # type: ignore[arg-type]
        assert found is not None and found.low < 0.35 and found.high > 0.65


def test_one_replicate_gives_an_interval_over_starts_and_says_so() -> None:
    found = summarise(study({"robot-only": (20,), "human-track": (60,)}))
    lift = found.comparison("human-track", None, 1)
    assert lift.over == "starts" and lift.wide is None and lift.needed is None
    assert verdict(lift).endswith("one seed, so the interval is over starts alone")


@pytest.mark.parametrize("replicates", [2, 3, 5, 12])
def test_the_detectable_lift_is_shown_in_80_of_100_runs(replicates: int) -> None:
    rng = np.random.default_rng(4)
    lift = detectable(1 / math.sqrt(replicates), replicates - 1)
    drawn = rng.normal(lift, 1.0, (40_000, replicates))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(replicates))
    assert np.mean(t > critical(replicates - 1)) == pytest.approx(0.8, abs=0.01)


def test_the_replicates_that_are_needed_are_the_fewest() -> None:
    for spread in (0.05, 0.1, 0.3):
        count = replicates_needed(spread, 0.15)
        assert count is not None and detectable(spread / math.sqrt(count), count - 1) <= 0.15
        assert count == 2 or detectable(spread / math.sqrt(count - 1), count - 2) > 0.15
    assert replicates_needed(9.0, 0.01) is None
    assert detectable(1.0, None) == pytest.approx(1.959964 + 0.841621)


@pytest.mark.parametrize(
    ("won", "shown", "said"),
    [
        ((41, 52, 61, 58, 34), "lifts", "lifts success by 17 points [8, 26] over robot-only"),
        (
            (14, 37, 47, 44, 24),
            "no difference shown",
            "no difference shown (+0.4 points [-1, 2]); a lift of 15 is ruled",
        ),
        (
            (33, 36, 60, 33, 44),
            "too small to tell",
            "too small to tell (+9 points [-8, 26]); a lift of 15 is not ruled",
        ),
        ((3, 20, 30, 28, 10), "lowers", "lowers success by 15 points [11, 19] below robot-only"),
    ],
)
def test_too_small_to_tell_is_not_no_difference(won: tuple[int, ...], shown: str, said: str) -> None:
    found = summarise(study({"robot-only": PROTOTYPE["robot-only"], "human-flare": won}))
    lift = found.comparison("human-flare", None, 1)
    assert lift.shown == shown and said in verdict(lift)


def test_the_lift_looked_for_decides_what_is_too_small_to_tell() -> None:
    won = {"robot-only": PROTOTYPE["robot-only"], "human-flare": (14, 37, 47, 44, 24)}
    assert summarise(study(won, lift=0.01)).comparison("human-flare", None, 1).shown == "too small to tell"
    assert summarise(study(won, lift=0.02)).comparison("human-flare", None, 1).shown == "no difference shown"


def test_the_best_baseline_is_the_reference_and_the_others_are_shown() -> None:
    won = {"robot-only": (13, 36, 48, 43, 24), "robot-heads": (20, 40, 50, 44, 30), "human-track": (41, 52, 61, 58, 34)}
    found = summarise(study(won, {"robot-heads": "baseline"}))
    assert found.references == {1: "robot-heads"}
    assert [(c.arm, c.reference, c.question) for c in found.comparisons] == [
        ("robot-only", "robot-heads", "beside"),
        ("human-track", "robot-heads", "lift"),
    ]
    assert found.comparison("human-track", None, 1).compared == 1  # baselines are not in the family of arms
    assert "the comparison is conservative" in reference_words(found)
    assert found.headline.startswith("Success is lifted over the best baseline (robot-heads) by human-track")


def test_the_best_baseline_is_chosen_on_seeds_that_all_have() -> None:
    won = {"robot-only": (13, 36, 48, 43, 24), "bc": (10, 30, 40, 40, 20), "human-track": (41, 52, 61, 58, 34)}
    result = study(won)

    def without(arm: str, *seeds: int) -> dict[str, Any]:
        return {**result, "runs": [run for run in result["runs"] if run["arm"] != arm or run["seed"] not in seeds]}

    # bc lacks the hard replicates, and has the higher mean only by that
    easy = without("bc", 0, 4)
    cells = summarise(easy)
    one, other = (cells.of(arm, 1).overall for arm in ("bc", "robot-only"))
    assert one is not None and other is not None and one.value > other.value
    assert cells.references == {1: "robot-only"}
    # one that has but a single replicate is not waited for, however good
    for run in result["runs"]:
        if (run["arm"], run["seed"]) == ("bc", 3):
            for rollout in run["rollouts"]:
                rollout["success"] = True
    assert summarise(without("bc", 0, 1, 2, 4)).references == {1: "robot-only"}
    assert summarise(without("bc", 0, 1)).references == {1: "bc"}


LATENT = {
    "robot-only": (13, 36, 48, 43, 24),
    "human-latent": (41, 52, 61, 58, 34),
    "shuffled": (21, 42, 50, 39, 31),
    "latent-heads": (39, 50, 62, 55, 36),
}


def test_an_arm_that_beats_the_baseline_but_not_its_control_is_not_told_from_it() -> None:
    roles = {"latent-heads": "control"}
    found = summarise(study(LATENT, roles, {"human-latent": ["shuffled", "latent-heads"]}))
    assert found.comparison("human-latent", None, 1).shown == "lifts"
    said = arm_words(found, "human-latent", 1)
    assert "It beats its control shuffled by 13 points [4, 22]" in said
    assert "It is not told from its control latent-heads (+1 points [-2, 4], no difference shown)" in said
    assert found.headline == (
        "No lift of success over robot-only and controls shown; human-latent at 1 demonstration is not told from controls"
    )
    unrun = summarise(study(LATENT, roles, {"human-latent": ["shuffled", "others"]}))
    assert "Its control others had no run" in arm_words(unrun, "human-latent", 1)
    assert unrun.headline.startswith("No lift")


def test_a_run_that_cannot_show_its_positive_controls_shows_nothing() -> None:
    roles = {"true": "positive", "same-body": "positive"}
    weak, strong = (16, 30, 50, 41, 26), (55, 66, 70, 69, 50)
    blind = summarise(study({**PROTOTYPE, "true": weak, "same-body": weak}, roles))
    assert blind.headline == (
        "This run shows nothing: a lift of true and same-body over robot-only is not shown at 1 demonstration"
    )
    assert "At 1 demonstration the positive controls are not shown over robot-only (true " in instrument_words(blind)
    part = summarise(study({**PROTOTYPE, "true": strong, "same-body": weak}, roles))
    assert part.headline.startswith("Success is lifted over robot-only by human-track")
    assert "the positive controls are shown in part" in instrument_words(part)
    assert "No positive control was run" in instrument_words(summarise(study(PROTOTYPE)))


def test_a_headline_says_which_lifts_do_not_survive_the_count_of_all() -> None:
    rng = np.random.default_rng(5)
    base = np.array(PROTOTYPE["robot-only"])
    others = {f"arm{k}": tuple(int(x) for x in base + rng.integers(-6, 6, 5)) for k in range(9)}
    found = summarise(study({**PROTOTYPE, **others}, controls={"human-track": ["shuffled"]}))
    track = found.comparison("human-track", None, 1)
    assert track.compared == 10 and not track.survives
    assert found.headline == (
        "Success is lifted over robot-only by human-track at 1 demonstration; it is not significant once all 10 are counted"
    )


def test_one_number_of_demonstrations_may_show_nothing_and_another_something() -> None:
    weak, strong = (16, 30, 50, 41, 26), (55, 66, 70, 69, 50)
    one = study({**PROTOTYPE, "true": strong}, {"true": "positive"})
    none = study({**PROTOTYPE, "true": weak}, {"true": "positive"})
    runs = [*one["runs"], *({**run, "demos": 0} for run in none["runs"])]
    found = summarise({**one, "runs": runs, "settings": {**one["settings"], "demos": [0, 1]}})
    assert [found.shows_positives(demos) for demos in (0, 1)] == [False, True]
    assert found.headline == (
        "Success is lifted over robot-only by human-track at 1 demonstration; "
        "at 0 demonstrations this run shows nothing, not even the positive controls"
    )


def test_power_says_what_could_have_been_detected_and_how_many_replicates_would_do() -> None:
    won = {**PROTOTYPE, "human-flare": (33, 36, 60, 33, 44)}
    found = summarise(study(won))
    track, flare = (found.comparison(arm, None, 1) for arm in ("human-track", "human-flare"))
    differences = (np.array(PROTOTYPE["human-track"]) - PROTOTYPE["robot-only"]) / 96
    assert track.detectable == pytest.approx(detectable(stats.sem(differences), 4))
    spread = np.std((np.array(won["human-flare"]) - won["robot-only"]) / 96, ddof=1)
    assert flare.needed == replicates_needed(float(spread), 0.15)
    (said,) = power_words(found)
    assert said == (
        "At 1 demonstration, 5 replicates: a true lift of 12 to 23 points over robot-only could have been detected "
        "(80% power, two-sided 5%); too blunt for the 15 points looked for: human-flare "
        f"(about {flare.needed} replicates would do)."
    )


def test_a_run_that_could_have_detected_nothing_says_so() -> None:
    found = summarise(study({"robot-only": (10, 80), "human-track": (80, 10)}))
    (said,) = power_words(found)
    assert said.startswith(
        "At 1 demonstration, 2 replicates: no true lift over robot-only could have been detected (80%"
    )


def test_replicates_that_tell_no_spread_do_not_tell_how_many_are_needed() -> None:
    won = {"robot-only": (0, 0, 0), "human-track": (0, 0, 0), "human-flare": (1, 20, 30)}
    found = summarise(study(won, lift=0.01))
    silent, flare = (found.comparison(arm, None, 1) for arm in ("human-track", "human-flare"))
    assert (
        silent.detectable is not None and silent.detectable > 0.01 and silent.needed is None
    )  # Wilson's, not Student's
    assert flare.needed is None  # more than are counted
    found = summarise(study(won, lift=0.02))
    (said,) = power_words(found)
    needed = found.comparison("human-flare", None, 1).needed
    assert f"about {needed} replicates would do for human-flare, of the others it is not known)" in said


def test_power_says_of_which_arm_nothing_is_known() -> None:
    result = study({**PROTOTYPE, "human-flare": PROTOTYPE["human-track"]})
    lost = [run for run in result["runs"] if run["arm"] != "human-flare"]
    (said,) = power_words(summarise({**result, "runs": lost}))
    assert said.endswith("within reach of every arm but human-flare, without a full run in common.")


def test_files_of_old_keep_their_design_and_get_roles_by_name() -> None:
    names = ("robot-only", "bc", "human-latent", "shuffled", "human-true", "mine")
    result = study(dict.fromkeys(names, (20, 30, 40)))
    del result["settings"]["design"]
    assert {arm.name: (arm.role, arm.controls) for arm in arm_roles(result)} == {
        "robot-only": ("baseline", ()),
        "bc": ("baseline", ()),
        "human-latent": ("arm", ("shuffled",)),
        "shuffled": ("control", ()),
        "human-true": ("ceiling", ()),
        "mine": ("arm", ()),
    }
    found = summarise(result, draws=100)
    assert (found.design, found.lift) == ("joint", 0.15)
    assert found.comparison("mine", None, 1).over == "seeds and starts"
    without = [arm for arm in result["arms"] if arm["name"] != "shuffled"]
    assert {arm.name: arm.controls for arm in arm_roles({**result, "arms": without})}["human-latent"] == ()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"design": "nested"}, "design 'nested': must be among joint, transfer"),
        ({"role": "hero"}, "arm 'robot-only': role 'hero' must be among baseline, arm"),
    ],
)
def test_an_unknown_design_or_role_is_refused(spoil: dict[str, str], said: str) -> None:
    result = study(PROTOTYPE)
    if "design" in spoil:
        result["settings"].update(spoil)
    else:
        result["arms"][0].update(spoil)
    with pytest.raises(ValueError, match=said):
        summarise(result)
