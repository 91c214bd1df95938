"""A job tells before two seconds are over that it is at work, and then at least every ten: how far, how fast, how long still."""

from __future__ import annotations

import re
import time

import pytest

from jobs import progress
from jobs.progress import Activity, at_work, bar, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.VOICE, "told_s", now[0])
    monkeypatch.setattr(progress, "SILENT_S", 10.0)
    return now


def test_a_line_says_how_far_how_fast_and_how_long_still(clock: list[float]) -> None:
    activity = Activity("training", unit="steps")
    activity.update(100, 600)  # of an earlier session: no work of this one
    clock[0] += 50
    activity.update(200, 600)
    line = activity.said()
    assert line.startswith("training: 200 of 600 steps, 2 steps/s, 50 s so far, about 3 min left, at most ")
    assert float(re.search(r"at most ([\d.]+) GB of memory$", line)[1]) > 0
    activity.update(1, 10, "writing")  # another phase has a rate of its own
    clock[0] += 2
    activity.update(5, 10)
    assert activity.said().startswith("writing: 5 of 10 steps, 2 steps/s, 2 s so far, about 2 s left")


def test_a_line_every_ten_seconds_without_a_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with bar("extracting", unit="clips", keep=True) as show:
        for done in range(31):
            show(done, 30)
            clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [int(re.search(r": (\d+) of 30 clips", line)[1]) for line in lines] == [10, 20, 30]
    with bar("", unit="clips", quiet=True) as show:
        clock[0] += 60
        show(1, 2)
    assert capsys.readouterr().err == ""


def test_a_command_is_never_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.3)
    monkeypatch.setattr(progress, "SILENT_S", 0.6)
    with at_work("report"):
        time.sleep(0.5)  # flags are read
        progress.VOICE.begin()
        time.sleep(0.8)  # libraries are loaded
        with bar("probing", unit="pairs") as show:
            show(1, 4)
            time.sleep(1.2)  # one piece takes longer
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("giza report: at work, 1 s") and any(
        line.startswith("probing: 1 of 4 pairs") for line in lines
    )


@pytest.mark.parametrize(("seconds", "text"), [(8, "8 s"), (89, "89 s"), (150, "2 min"), (7500, "2 h 5 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
