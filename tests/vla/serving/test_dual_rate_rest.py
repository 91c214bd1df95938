"""What the dual-rate runner does when no new actions come: a robot that is moved by displacements must not go on moving."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.builders.timed_policy import HORIZON, STEP_S, Sent, TimedPolicy, observing, simulate, simulated
from vla.serving.dual_rate import DualRateRunner

SLOW: dict[str, Any] = {"think_s": 0.01, "act_s": 1.0, "chunk_hz": 20, "act_hz": 20, "stale_s": 5}
"""Chunks reach 0.75 s, and are there when 1 s is over."""
QUICK: dict[str, Any] = {"think_s": 0.01, "act_s": 0.01, "chunk_hz": 20, "act_hz": 20}


def test_past_a_chunk_displacements_are_zero_and_targets_stay() -> None:
    report, sent, policy = simulate(**SLOW, displacements=[0], run={"seconds": 4.0})
    assert report.exhausted == report.actions == 80
    assert not any(action[0] for _, action in sent)
    assert {float(np.float32(moment)) for moment in policy.thoughts} > {float(action[1]) for _, action in sent} > {0.0}
    _, sent, _ = simulate(**SLOW, run={"seconds": 4.0})
    assert all(action[0] >= 100 * (HORIZON - 1) * STEP_S for _, action in sent)  # targets: the last step stays


def test_the_last_displacement_fades_within_one_step() -> None:
    _, sent, policy = simulate(**{**SLOW, "act_s": 0.7, "act_hz": 100}, displacements=[0], run={"seconds": 0.2})
    begun = policy.chunks[0]
    for now, action in sent[:-1]:
        steps = (now - begun) / STEP_S - (HORIZON - 1)
        whole = 100 * (begun + min(now - begun, (HORIZON - 1) * STEP_S))
        last = 100 * (begun + (HORIZON - 1) * STEP_S)
        assert action[0] == pytest.approx(whole if steps <= 0 else max(0.0, 1 - steps) * last, abs=1e-2)


@pytest.mark.parametrize("hangs", ["think", "chunk"])
@pytest.mark.parametrize("displacements", [[], [0]])
def test_who_hangs_ends_the_run_with_the_robot_at_rest(hangs: str, displacements: list[int]) -> None:
    """Also where the camera's tokens alone are old: what moves on them is blind. Chunks are long enough to be in motion."""
    runner, policy = simulated(**QUICK, displacements=displacements, stale_s=0.5)
    policy.hangs[hangs] = 20
    sent: Sent = []
    with pytest.raises(TimeoutError, match=r"seen 0\.5\d s ago, the limit is 0\.5 s"):
        runner.run(lambda action, now: sent.append((now, action)), seconds=60)
    newest = (policy.thoughts if hangs == "think" else policy.chunks)[19]
    assert sent[-1][0] == pytest.approx(newest + 0.5, abs=0.2)
    assert bool(sent[-1][1][0]) is not bool(displacements)
    assert sent[-2][1][0] > 0


def test_who_hangs_is_stopped_although_nobody_asked_for_it() -> None:
    runner, policy = simulated(**QUICK)
    policy.hangs["chunk"] = 20
    with pytest.raises(TimeoutError, match="the limit is 2 s"):
        runner.run(lambda action, now: None, seconds=60)


def real() -> tuple[DualRateRunner, TimedPolicy]:
    """A quick runner of displacements in real time."""
    clock = SimpleNamespace(now=time.monotonic, sleep_until=lambda *_: None)
    policy = TimedPolicy(clock, think_s=0.0, act_s=0.0)
    policy.space = dataclasses.replace(policy.space, displacements=(0,))
    return DualRateRunner(policy, observing(clock), embodiment="gr1", stale_s=0.2), policy  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [{"seconds": 1.0}, {"steps": 7}])
def test_a_run_of_displacements_ends_at_rest(run: dict[str, Any]) -> None:
    report, sent, _ = simulate(**QUICK, displacements=[0], run=run)
    assert len(sent) == report.actions + 1
    assert sent[-1][1][0] == 0 and all(action[0] > 0 for _, action in sent[:-1])
    assert sent[-1][1][1] == sent[-2][1][1]
    targets, sent, _ = simulate(**QUICK, run=run)
    assert len(sent) == targets.actions


def test_an_error_ends_at_rest_but_a_robot_that_fails_is_told_no_more() -> None:
    runner, policy = real()
    act_on, sent = policy.act_on, []

    def wrong(*given: Any, **settings: Any) -> Any:
        return act_on(*given, **settings) if len(sent) < 3 else np.full((1, HORIZON, 2), np.nan)

    policy.act_on = wrong  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not finite"):
        runner.run(lambda action, now: sent.append(float(action[0])), seconds=5)
    assert sent[-1] == 0 and all(sent[:-1])
    runner, _ = real()
    sent.clear()

    def broken(action: Any, now: float) -> None:
        sent.append(float(action[0]))
        if len(sent) == 3:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        runner.run(broken, seconds=5)
    assert len(sent) == 3 and all(sent)


def test_a_thread_that_hangs_is_left_behind_and_the_next_run_refused(caplog: pytest.LogCaptureFixture) -> None:
    runner, policy = real()
    act_on, calls, free = policy.act_on, iter(range(10**6)), threading.Event()
    policy.act_on = lambda *a, **k: act_on(*a, **k) if next(calls) < 3 or free.wait(10) else None  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="hangs"):
        runner.run(lambda action, now: None, seconds=20)
    assert time.monotonic() - began < 3
    assert "giza-chunk does not end" in caplog.text
    with pytest.raises(RuntimeError, match="giza-chunk of the last run"):
        runner.run(lambda action, now: None, seconds=20)
    free.set()
    runner._threads[1].join(5)
    assert runner.run(lambda action, now: None, steps=2).actions == 2


def test_what_cannot_rest_is_refused_and_what_is_added_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    runner, policy = real()
    policy.space = dataclasses.replace(policy.space, displacements=None)
    with pytest.raises(ValueError, match="displacement = true or false"):
        DualRateRunner(policy, runner.observe, embodiment="gr1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stale_s 0.1: at 10 thoughts"):
        simulated(**QUICK, stale_s=0.1)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        simulated(**QUICK, displacements=[0])
        assert not caplog.text
        simulated(**{**QUICK, "act_hz": 120}, displacements=[0])
    assert "moves 6 times as far" in caplog.text
