"""The ablation's statistics against a slow reference, against how often they hold the truth, and with runs that failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.ablation.findings import Comparison, Statistics, verdict
from jobs.ablation.intervals import Estimate, resampled
from jobs.ablation.statistics import summarise

Grid = NDArray[np.float64]


def ablation(
    grids: dict[str, Grid], *, demos: Sequence[int] = (1,), failed: Sequence[tuple[str, int]] = (), **more: Any
) -> dict[str, Any]:
    """A result from successes [seeds, tasks, starts] of each arm, the same at each number of demonstrations."""
    seeds, tasks, starts = next(iter(grids.values())).shape
    runs = []
    for arm, grid in grids.items():
        for count in demos:
            for seed in range(seeds):
                lost = (arm, seed) in failed
                rollouts = [
                    {"task": f"task{k}", "start": n, "success": bool(grid[seed, k, n]), "steps": 9}
                    for k in range(tasks)
                    for n in range(starts)
                ]
                status, error = ("failed", "RuntimeError: out of memory") if lost else ("done", None)
                run = {"arm": arm, "demos": count, "seed": seed, "status": status, "error": error}
                runs.append({**run, "rollouts": [] if lost else rollouts, "curve": []})
    settings = {
        "tasks": [f"task{k}" for k in range(tasks)],
        "demos": list(demos),
        "seeds": list(range(seeds)),
        "starts": starts,
        **more,
    }
    return {"settings": settings, "arms": [{"name": arm} for arm in grids], "runs": runs}


def played(rng: np.random.Generator, chance: Grid | float, shape: tuple[int, int, int]) -> Grid:
    return (rng.random(shape) < chance).astype(np.float64)


def found(statistics: Statistics, arm: str, reference: str, demos: int = 1) -> Comparison:
    return statistics.comparison(arm, reference, demos)


def sure(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate


def test_the_bootstrap_is_the_mean_of_drawn_seeds_and_of_starts_drawn_once_for_all_seeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, 5))
    fast = resampled(values, 20_000, 1)
    slow = []
    for _ in range(20_000):
        seeds = rng.integers(0, 3, 2)
        starts = rng.integers(0, 5, (2, 4))
        slow.append([values[np.ix_(seeds, [k], starts[k])].mean() for k in range(2)])
    reference = np.array(slow)
    np.testing.assert_allclose(fast.mean(0), values.mean((0, 2)), atol=0.01)
    np.testing.assert_allclose(fast.std(0), reference.std(0), rtol=0.03)
    percentiles = [2.5, 25, 75, 97.5]
    for ours, theirs in ((fast, reference), (fast.mean(1)[:, None], reference.mean(1)[:, None])):
        np.testing.assert_allclose(
            np.percentile(ours, percentiles, axis=0), np.percentile(theirs, percentiles, axis=0), atol=0.03
        )
    assert np.corrcoef(fast.T)[0, 1] == pytest.approx(np.corrcoef(reference.T)[0, 1], abs=0.03)  # by the shared seeds


def test_success_and_differences_are_the_plain_means_and_the_same_again() -> None:
    rng = np.random.default_rng(1)
    grids = {arm: played(rng, chance, (3, 4, 6)) for arm, chance in (("robot-only", 0.3), ("bc", 0.5), ("both", 0.8))}
    result = ablation(grids, demos=(1, 3))
    statistics = summarise(result)
    for arm, grid in grids.items():
        cell = statistics.of(arm, 3)
        assert sure(cell.overall).value == pytest.approx(grid.mean())
        assert [sure(cell.tasks[f"task{k}"]).value for k in range(4)] == pytest.approx(grid.mean((0, 2)).tolist())
        assert cell.over == "seeds and starts" and cell.seeds == (0, 1, 2)
    pairs = [(c.arm, c.reference, c.demos, c.question) for c in statistics.comparisons]
    assert pairs == [
        (arm, "bc", n, question) for n in (1, 3) for arm, question in (("robot-only", "beside"), ("both", "lift"))
    ]
    lift = found(statistics, "both", "bc")
    assert sure(lift.overall).value == pytest.approx(grids["both"].mean() - grids["bc"].mean())
    assert sure(lift.tasks["task2"]).value == pytest.approx((grids["both"] - grids["bc"])[:, 2].mean())
    text = json.dumps(statistics.to_json(), allow_nan=False)
    assert text == json.dumps(summarise(result).to_json())
    shuffled = {**result, "runs": list(reversed(result["runs"]))}
    assert json.dumps(summarise(shuffled).to_json()) == text
    assert json.dumps(summarise(result, seed=1).to_json()) != text


@pytest.mark.parametrize(("between_seeds", "lift", "most"), [(0.0, 0.15, 1.0), (0.1, 0.15, 0.99), (0.1, 0.0, 0.99)])
def test_the_interval_holds_the_true_difference_about_as_often_as_it_says(
    between_seeds: float, lift: float, most: float
) -> None:
    rng = np.random.default_rng(2)
    held, false_lifts, repeats = 0, 0, 200
    for _ in range(repeats):
        # a chance of each start, alike in both arms, and luck of each arm's seeds, in all and in each task; nothing is clipped
        # at 0 or 1, so that the true difference is the lift
        easy = rng.uniform(0.3, 0.55, (1, 6, 10))

        def luck(easy: Grid = easy) -> Grid:
            in_all = rng.uniform(-1, 1, (3, 1, 1))
            return easy + between_seeds * (in_all + rng.uniform(-1, 1, (3, 6, 1)))

        grids = {"robot-only": played(rng, luck(), (3, 6, 10)), "human-latent": played(rng, luck() + lift, (3, 6, 10))}
        comparison = found(summarise(ablation(grids), draws=300), "human-latent", "robot-only")
        low, high = sure(comparison.overall).low, sure(comparison.overall).high
        held += low <= lift <= high
        false_lifts += comparison.shown == "lifts" and lift == 0
    # without any luck of seeds the crossed bootstrap is wider than need be
    assert 0.9 <= held / repeats <= most
    assert false_lifts / repeats <= 0.05


def test_pairing_by_start_narrows_the_difference_where_starts_matter() -> None:
    rng = np.random.default_rng(3)
    chance = rng.choice([0.05, 0.95], (1, 4, 12))  # a start is hard or easy, for either arm
    grids = {"robot-only": played(rng, chance, (3, 4, 12)), "human-latent": played(rng, chance, (3, 4, 12))}
    statistics = summarise(ablation(grids))
    paired = sure(found(statistics, "human-latent", "robot-only").overall)
    alone = resampled(grids["human-latent"], 10_000, 1).mean(1) - resampled(grids["robot-only"], 10_000, 2).mean(1)
    unpaired = np.diff(np.percentile(alone, [2.5, 97.5])).item()
    assert paired.high - paired.low < 0.6 * unpaired


def test_a_failed_seed_is_left_out_on_both_sides_and_said() -> None:
    rng = np.random.default_rng(4)
    grids = {arm: played(rng, chance, (3, 2, 10)) for arm, chance in (("robot-only", 0.2), ("human-latent", 0.9))}
    statistics = summarise(ablation(grids, failed=[("human-latent", 1)]))
    cell = statistics.of("human-latent", 1)
    assert cell.by_seed == pytest.approx({seed: grids["human-latent"][seed].mean() for seed in (0, 2)})
    assert cell.seeds == (0, 2) and cell.without == {1: "failed: RuntimeError: out of memory"}
    assert sure(cell.overall).value == pytest.approx(grids["human-latent"][[0, 2]].mean())
    assert statistics.of("robot-only", 1).seeds == (0, 1, 2)
    lift = found(statistics, "human-latent", "robot-only")
    assert lift.seeds == (0, 2) and lift.without == (1,)
    difference = (grids["human-latent"] - grids["robot-only"])[[0, 2]]
    assert sure(lift.overall).value == pytest.approx(difference.mean())
    assert verdict(lift).endswith("on seeds 0, 2 alone, which both have")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: run["rollouts"].pop(), "1 of 20 rollouts are missing"),
        (lambda run: run["rollouts"].append(run["rollouts"][0]), "played a start twice: task0 0"),
        (lambda run: run["rollouts"][0].update(start=77), "played a start that is not planned: task0 77"),
        (lambda run: run.update(status="missing", rollouts=[]), "not run"),
        (lambda run: run.update(status="failed", error=None), "failed: no reason given"),
    ],
)
def test_a_run_that_is_not_full_does_not_count(spoil: Callable[[dict[str, Any]], Any], why: str) -> None:
    rng = np.random.default_rng(5)
    result = ablation({"robot-only": played(rng, 0.5, (2, 2, 10)), "bc": played(rng, 0.5, (2, 2, 10))})
    spoil(next(run for run in result["runs"] if (run["arm"], run["seed"]) == ("bc", 1)))
    cell = summarise(result, draws=50).of("bc", 1)
    assert cell.seeds == (0,) and cell.without == {1: why} and cell.over == "starts"


def test_an_arm_without_a_full_seed_gets_no_figure_and_no_verdict() -> None:
    rng = np.random.default_rng(6)
    grids = {arm: played(rng, 0.5, (2, 2, 5)) for arm in ("robot-only", "bc", "human-latent")}
    # the two have no seed in common, though each has one
    statistics = summarise(ablation(grids, failed=[("bc", 0), ("bc", 1), ("human-latent", 0), ("robot-only", 1)]))
    dead = statistics.of("bc", 1)
    assert dead.overall is None and dead.over == "nothing"
    assert set(dead.tasks.values()) == {None} and len(dead.tasks) == 2
    nothing = {"value": None, "low": None, "high": None}
    assert dead.to_json()["overall"] == nothing and dead.to_json()["tasks"]["task1"] == nothing
    alive = statistics.of("human-latent", 1)  # its own seed still counts, and is told
    assert alive.seeds == (1,) and alive.over == "starts"
    assert sure(alive.overall).value == pytest.approx(grids["human-latent"][1].mean())
    assert sure(alive.overall).low < sure(alive.overall).value < sure(alive.overall).high
    assert {c.shown for c in statistics.comparisons} == {"cannot tell"}
    assert {c.p_holm for c in statistics.comparisons} == {None}
    assert verdict(statistics.comparisons[0]).endswith("cannot tell, no seed ran to its end in both")
    assert statistics.headline.startswith("Cannot tell")


def test_one_seed_gives_an_interval_over_starts_and_says_so() -> None:
    rng = np.random.default_rng(7)
    grids = {"robot-only": played(rng, 0.1, (1, 4, 20)), "human-flare": played(rng, 0.7, (1, 4, 20))}
    lift = found(summarise(ablation(grids)), "human-flare", "robot-only")
    assert lift.over == "starts" and lift.seeds == (0,)
    assert verdict(lift).endswith("at 1 demonstration; one seed, so the interval is over starts alone")
    difference = (grids["human-flare"] - grids["robot-only"])[0]
    error = np.sqrt((difference.var(1, ddof=1) / 20).mean() / 4)  # of a mean stratified by task
    assert (sure(lift.overall).high - sure(lift.overall).low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_the_words_follow_the_interval() -> None:
    rng = np.random.default_rng(8)
    shape = (3, 4, 20)
    chances = {"robot-only": 0.4, "human-latent": 0.75, "human-flare": 0.4, "synthetic": 0.1, "shuffled": 0.42}
    statistics = summarise(ablation({arm: played(rng, chance, shape) for arm, chance in chances.items()}))
    said = {c.arm: verdict(c) for c in statistics.comparisons if c.reference == "robot-only"}
    assert said["human-latent"].startswith("human-latent lifts success by 3")
    assert said["human-latent"].endswith("over robot-only at 1 demonstration")
    assert "human-flare against robot-only at 1 demonstration: no difference shown (" in said["human-flare"]
    assert said["human-flare"].endswith("; a lift of 15 is ruled out")
    assert (
        said["synthetic"].startswith("synthetic lowers success by") and "-" not in said["synthetic"].split("by")[1][:20]
    )
    assert found(statistics, "human-latent", "shuffled").shown == "lifts"
    assert statistics.headline == "Success is lifted over robot-only by human-latent at 1 demonstration"


def test_holms_correction_counts_all_comparisons_of_a_question() -> None:
    rng = np.random.default_rng(9)
    grids = {f"arm{k}": played(rng, 0.36 + 0.02 * k, (3, 4, 20)) for k in range(8)}
    grids = {"robot-only": played(rng, 0.3, (3, 4, 20)), **grids}
    statistics = summarise(ablation({**grids, "shuffled": grids["arm0"]}, demos=(1, 3)))
    both = [*statistics.asked("lift", 1), *statistics.asked("lift", 3)]
    assert {c.compared for c in both} == {16} == {len(both)}  # of one question, at all numbers of demonstrations
    statistics = summarise(ablation(grids))
    asked = statistics.asked("lift", 1)
    assert {c.compared for c in asked} == {8} == {len(asked)}
    by_p = sorted(asked, key=lambda c: c.p or 0.0)
    for place, comparison in enumerate(by_p):
        assert comparison.p_holm == pytest.approx(
            max(min(1.0, (c.p or 0.0) * (8 - k)) for k, c in enumerate(by_p[: place + 1]))
        )
    weak = [c for c in asked if c.shown == "lifts" and c.p_holm is not None and c.p_holm > 0.05]
    assert weak, "the chances are such that one lift does not survive"
    assert all(f"not significant once all {c.compared} comparisons are counted" in verdict(c) for c in weak)


def test_successes_that_are_all_alike_leave_room_for_what_was_not_seen() -> None:
    never, ever = np.zeros((3, 2, 12)), np.ones((3, 2, 12))
    statistics = summarise(ablation({"robot-only": never, "bc": never, "human-latent": ever}))
    alone = sure(statistics.of("robot-only", 1).overall)
    assert (alone.value, alone.low) == (0.0, 0.0) and alone.high == pytest.approx(0.138, abs=1e-3)  # Wilson, 0 of 24
    same = found(statistics, "bc", "robot-only")
    assert same.shown == "no difference shown" and sure(same.overall).low == -sure(same.overall).high != 0
    assert same.p == 1.0
    full = found(statistics, "human-latent", "robot-only")
    assert (
        full.shown == "lifts"
        and sure(full.overall).high == 1.0
        and sure(full.overall).low == pytest.approx(1 - 2 * 0.138, abs=2e-3)
    )
    assert full.p is not None and full.p < 0.001


def test_two_runs_of_one_cell_are_refused() -> None:
    result = ablation({"robot-only": np.zeros((1, 1, 2))})
    with pytest.raises(ValueError, match="two runs of arm 'robot-only', 1 demonstrations, seed 0: keep one"):
        summarise({**result, "runs": result["runs"] * 2})
