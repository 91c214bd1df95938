"""The dual-rate runner in virtual time, where every moment can be computed by hand, and for a second in real time."""

from __future__ import annotations

import threading
import time
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.builders.timed_policy import TimedPolicy, VirtualClock, observing, simulate
from vla.serving.beats import Durations, Metronome, Spread
from vla.serving.dual_rate import Chunk, DualRateRunner, Moment


def test_a_fast_policy_keeps_all_rates() -> None:
    report, sent, policy = simulate(
        think_s=0.06, act_s=0.02, think_hz=10, chunk_hz=20, act_hz=100, run={"seconds": 2.0}
    )
    assert len(sent) == report.actions == 200
    assert report.measured_hz == pytest.approx({"think": 10, "chunk": 20, "act": 100}, rel=0.02)
    assert report.missed == {"think": 0, "chunk": 0, "act": 0}
    assert report.exhausted == 0
    assert report.lateness.max_s == pytest.approx(0, abs=1e-9)
    # first thought 0 to 0.06; the planner's beat at 0.1 is the first to find it, and its chunk is there at 0.12
    assert report.first_action_s == pytest.approx(0.12, abs=0.011)
    assert astuple(report.think_duration) == pytest.approx((0.06, 0.06, 0.06))
    # a chunk is replaced every 0.05 s by one that is 0.02 s old: actions are made from states 0.02 to 0.07 s old
    assert 0.02 <= report.action_age.mean_s <= 0.07 + 1e-9
    assert report.action_age.max_s == pytest.approx(0.07, abs=0.0101)
    # the oldest tokens: thought at 0.1 n, planned from at 0.1 n + 0.1 or 0.15, in use until 0.05 s and a chunk later
    assert report.feature_age.max_s == pytest.approx(0.22, abs=0.0101)
    assert np.diff(policy.thoughts) == pytest.approx(0.1)
    assert np.diff(policy.chunks) == pytest.approx(0.05)
    assert policy.heard == ["go"] * len(policy.thoughts)  # what is cut of an instruction is told


def test_every_action_is_what_its_moment_was_planned_for() -> None:
    """Whatever chunk an action comes from, and between whatever steps it lies: the plan is the straight line 100 t."""
    _, sent, _ = simulate(think_s=0.09, act_s=0.033, think_hz=7, chunk_hz=13, act_hz=120, run={"seconds": 1.0})
    moments = np.array([now for now, _ in sent])
    np.testing.assert_allclose([action[0] for _, action in sent], 100 * moments, rtol=1e-5)
    assert np.diff(moments) == pytest.approx(1 / 120)


def test_the_newest_tokens_are_used() -> None:
    _, sent, policy = simulate(think_s=0.063, act_s=0.023, think_hz=10, chunk_hz=20, act_hz=100, run={"seconds": 1.0})
    for now, action in sent:
        planned = max(begun for begun in policy.chunks if begun + 0.023 <= now)
        thought = max(begun for begun in policy.thoughts if begun + 0.063 <= planned)
        assert action[1] == pytest.approx(thought, abs=1e-6)


def test_a_slow_system_2_is_measured_and_does_not_slow_the_stream() -> None:
    report, _, _ = simulate(think_s=0.25, act_s=0.02, think_hz=10, chunk_hz=20, act_hz=100, run={"seconds": 5.0})
    assert report.measured_hz == pytest.approx({"think": 4, "chunk": 20, "act": 100}, rel=0.03)
    assert report.missed["think"] == pytest.approx(5 * (10 - 4), abs=2)
    assert report.missed["act"] == 0
    # tokens are 0.25 s old when they are there, and stay until the next are there and planned from
    assert report.feature_age.max_s == pytest.approx(0.25 + 0.25 + 0.05 + 0.02, abs=0.05)
    assert report.feature_age.p95_s <= report.feature_age.max_s


def test_a_chunk_that_ends_before_the_next_comes_is_held_and_counted() -> None:
    """Chunks reach 0.75 s; the planner takes 1 s, so each is there when it is over, and holds its last step."""
    report, sent, _ = simulate(think_s=0.01, act_s=1.0, act_hz=10, chunk_hz=20, stale_s=5, run={"seconds": 4.0})
    assert report.exhausted == report.actions == 40
    assert {round(float(action[0]) - 75, 3) for _, action in sent} <= {0, 5, 10} | {
        round(100 * begun, 3) for begun in np.arange(0, 6, 0.05)
    }
    assert report.action_age.max_s == pytest.approx(2.0, abs=0.15)


def test_the_same_run_twice_is_the_same() -> None:
    runs = [
        simulate(think_s=0.07, act_s=0.03, think_hz=9, chunk_hz=17, act_hz=110, run={"steps": 150}) for _ in range(2)
    ]
    assert runs[0][0] == runs[1][0]
    assert runs[0][0].actions == 150
    np.testing.assert_array_equal([a for _, a in runs[0][1]], [a for _, a in runs[1][1]])


def test_the_noise_is_that_of_the_seed() -> None:
    settings: dict[str, Any] = {"think_s": 0.01, "act_s": 0.01, "chunk_hz": 20, "run": {"seconds": 0.5}}
    fixed, other, free = (simulate(seed=seed, **settings)[2].noise for seed in (0, 1, None))
    assert len(fixed) > 5 and len(set(fixed)) == 1
    assert len(set(other)) == 1 and other[0] != fixed[0]
    assert len(set(free)) == len(free)


def test_an_observation_knows_better_when_it_was_taken() -> None:
    clock = VirtualClock()
    policy = TimedPolicy(clock, think_s=0.01, act_s=0.01)
    fresh = observing(clock)

    def delayed() -> Moment:
        made = fresh()
        return Moment(made.images, made.image_mask, "go", made.state, time_s=clock.now() - 0.5)

    runner = DualRateRunner(policy, delayed, embodiment="gr1", clock=clock)  # type: ignore[arg-type]
    report = runner.run(lambda action, now: None, steps=50)
    assert report.action_age.mean_s > 0.5
    assert report.feature_age.mean_s > report.action_age.mean_s


def test_a_chunk_between_its_steps() -> None:
    chunk = Chunk(np.array([[0, 0], [1, 10], [3, 10]], np.float32), observed_s=5.0, tokens_observed_s=4.0, step_s=0.5)
    wanted = {4.0: [0, 0], 5.0: [0, 0], 5.25: [0.5, 5], 5.5: [1, 10], 5.75: [2, 10], 6.0: [3, 10], 9.0: [3, 10]}
    for moment, action in wanted.items():
        np.testing.assert_allclose(chunk.at(moment), action)
    assert chunk.covers(5.5) and not chunk.covers(5.51)  # the last is the rest
    chunk.at(9.0)[:] = 7  # what is sent may be changed by who gets it
    np.testing.assert_allclose(chunk.actions[-1], [3, 10])


def test_a_metronome_counts_what_is_over() -> None:
    beats = Metronome(10, start_s=1.0)
    for moment in (1.0, 1.15, 1.2, 1.55, 1.6):  # the beat at 1.3 and 1.4 are over at 1.55, the one at 1.5 is only late
        beats.keep(moment)
    assert (beats.kept, beats.missed) == (5, 2)
    assert beats.late.spread().max_s == pytest.approx(0.05)
    assert beats.next_s == pytest.approx(1.7)


def test_durations_against_numpy() -> None:
    values = np.random.default_rng(0).exponential(size=500)
    kept = Durations()
    for value in values:
        kept.add(value)
    assert astuple(kept.spread()) == pytest.approx((values.mean(), np.percentile(values, 95), values.max()))
    assert Durations().spread() == Spread()


class Failing(TimedPolicy):
    """Raises at the third thought, or at the third chunk."""

    def __init__(self, where: str) -> None:
        super().__init__(SimpleNamespace(now=time.monotonic, sleep_until=lambda *_: None), think_s=0, act_s=0)
        self.where = where

    def encode(self, *inputs: Any) -> Any:
        if self.where == "think" and len(self.thoughts) == 2:
            raise RuntimeError("no thought")
        return super().encode(*inputs)

    def act_on(self, *inputs: Any, **settings: Any) -> Any:
        if self.where == "chunk" and len(self.chunks) == 2:
            raise RuntimeError("no chunk")
        return super().act_on(*inputs, **settings)


def giza_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("giza-")]


@pytest.mark.parametrize(("where", "reason"), [("think", "no thought"), ("chunk", "no chunk")])
def test_an_error_in_a_thread_surfaces_and_ends_the_others(where: str, reason: str) -> None:
    policy = Failing(where)
    runner = DualRateRunner(policy, observing(policy.clock), embodiment="gr1", think_hz=50, chunk_hz=50)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=reason):
        runner.run(lambda action, now: None, seconds=20)
    assert giza_threads() == []


def test_an_error_before_the_first_chunk_surfaces_too() -> None:
    def blind() -> Moment:
        raise OSError("no camera")

    policy = Failing("nowhere")
    runner = DualRateRunner(policy, blind, embodiment="gr1")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="no camera"):
        runner.run(lambda action, now: None, seconds=20)
    assert giza_threads() == []


def test_an_error_of_who_gets_the_actions_surfaces() -> None:
    def broken(action: Any, now: float) -> None:
        raise ConnectionError("robot is gone")

    policy = Failing("nowhere")
    runner = DualRateRunner(policy, observing(policy.clock), embodiment="gr1")  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="robot is gone"):
        runner.run(broken, seconds=20)
    assert giza_threads() == []


def test_a_policy_that_never_plans_is_given_up() -> None:
    clock = VirtualClock()
    policy = TimedPolicy(clock, think_s=100.0, act_s=0.01)
    runner = DualRateRunner(policy, observing(clock), embodiment="gr1", clock=clock)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError, match="within 3 s"):
        runner.run(lambda action, now: None, steps=1, patience_s=3.0)


def test_a_second_in_real_time_stopped_from_outside_and_run_again() -> None:
    start = time.monotonic()

    def now() -> float:
        return time.monotonic() - start

    clock = SimpleNamespace(now=now, sleep_until=lambda moment, _: time.sleep(max(0.0, moment - now())))
    policy = TimedPolicy(clock, think_s=0.03, act_s=0.01)
    runner = DualRateRunner(policy, observing(clock), embodiment="gr1")  # type: ignore[arg-type]
    sent: list[float] = []
    report = runner.run(lambda action, moment: sent.append(float(action[0]) / 100 - (moment - start)), seconds=1.0)
    assert giza_threads() == []
    # a busy machine loses beats, but what is counted adds up, and what is sent is still meant for its moment
    assert report.actions + report.missed["act"] == pytest.approx(120 * report.seconds + 1, abs=1.5)
    assert 5 < report.actions <= 120
    assert report.action_age.mean_s > 0.01
    assert report.feature_age.mean_s > report.action_age.mean_s + 0.03
    assert report.think_duration.mean_s >= 0.03
    assert np.median(np.abs(sent)) < 5e-3
    timer = threading.Timer(0.2, runner.stop)
    timer.start()
    again = runner.run(lambda action, moment: None)
    timer.join()
    assert again.actions > 0
    assert giza_threads() == []


@pytest.mark.parametrize(
    "rate", [{"think_hz": 0}, {"chunk_hz": -1}, {"act_hz": float("inf")}, {"act_hz": float("nan")}, {"stale_s": 0}]
)
def test_rates_that_are_none_are_refused(rate: dict[str, float]) -> None:
    clock = VirtualClock()
    with pytest.raises(ValueError, match=f"{next(iter(rate))} .*more than 0"):
        DualRateRunner(TimedPolicy(clock, think_s=0, act_s=0), observing(clock), embodiment="gr1", **rate)  # type: ignore[arg-type]
