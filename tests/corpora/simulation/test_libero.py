"""The script and the processes of LIBERO, on a stand-in for it; LIBERO itself is asked by tests/peers/test_libero.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from corpora.simulation.libero import process
from corpora.simulation.libero.facts import SUITES, object_tasks
from corpora.simulation.libero.process import told_by
from corpora.simulation.libero.script import PickAndPlace
from corpora.simulation.libero.world import axis_angle
from tests.builders import fake_libero
from tests.builders.libero import ROOT, fake_environment

ORDER = {"module": "corpora.simulation.libero.script", "seed": 3, "tries": 2, "camera": "agentview", "size": 16}
ORDER |= {"shadows": False}


def test_the_public_limits() -> None:
    assert {name: suite.max_steps for name, suite in SUITES.items()} == {
        "spatial": 220,
        "object": 280,
        "goal": 300,
        "long": 520,
    }


@pytest.mark.parametrize(
    ("names", "message"), [((), "name one or more"), (("milk", "milk"), "each once"), (("mlik",), "mean 'milk'")]
)
def test_wrong_tasks_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        object_tasks(names)


def test_axis_angle_is_scipys() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    for quaternion in np.random.default_rng(0).normal(size=(20, 4)):
        quaternion /= np.linalg.norm(quaternion)
        again = rotation.from_rotvec(axis_angle(quaternion)).as_quat()
        assert abs(again @ quaternion) == pytest.approx(1)
    assert not axis_angle(np.array([0, 0, 0, 1.0])).any()


@pytest.mark.parametrize("height_m", [0.01, 0.07])
def test_the_script_grips_where_the_palm_is_above_the_thing(height_m: float) -> None:
    """Half of the thing's height; fingers reach 3.5 cm below the palm's bound."""
    script, tool = PickAndPlace(), np.array([0.0, 0.0, 0.25])
    thing, closed_at = np.array([0.1, -0.2, height_m]), None
    for _ in range(120):
        action = script.action(tool, thing, np.array([0.0, 0.26, 0.03]))
        assert np.abs(action).max() <= 1 and not action[3:6].any()
        if action[6] > 0:
            closed_at = tool
            break
        tool = tool + fake_libero.MOVE_M * action[:3]
    assert closed_at is not None
    np.testing.assert_allclose(closed_at[:2], thing[:2], atol=0.01)
    assert closed_at[2] == pytest.approx(max(height_m, 2 * height_m - 0.035), abs=0.01)


def test_demonstrations_are_told_with_their_frames_and_depend_on_their_number_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environment(tmp_path, monkeypatch)
    episodes = [("milk", 0, 0.0), ("milk", 1, 0.3), ("butter", 0, 0.0)]
    told = {(each["task"], each["number"]): each for each in told_by([{**ORDER, "episodes": episodes}])}
    assert told["butter", 0] == {"task": "butter", "number": 0, "failed": 2}
    milk = told["milk", 1]
    steps = milk["steps"]
    assert milk["image"].shape == (steps, 16, 16, 3) and milk["success"][-1] and not milk["success"][0]
    assert np.abs(milk["action"] - milk["expert"])[:, :3].max() > 0.1
    np.testing.assert_array_equal(told["milk", 0]["action"], told["milk", 0]["expert"])
    (alone,) = told_by([{**ORDER, "episodes": episodes[1:2]}])
    for name in ("action", "state", "image"):
        np.testing.assert_array_equal(alone[name], milk[name])


def test_a_missing_environment_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.ENVIRONMENT, str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"no LIBERO environment in '.*none': build it with make libero") as told:
        list(told_by([{}]))
    assert "\n" not in str(told.value)


def test_a_process_that_dies_and_one_that_cannot_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_environment(tmp_path, monkeypatch)
    monkeypatch.setenv(fake_libero.DEADLY, "7")
    with pytest.raises(OSError, match="ended with status -9"):
        list(told_by([{"module": "tests.builders.libero_deadly", "start": 7}]))
    with pytest.raises(OSError, match="No module named 'nowhere'"):
        list(told_by([{"module": "nowhere"}]))
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(OSError, match=r"status 3 \(broken\)"):
        list(told_by([{**ORDER, "episodes": []}]))


def test_workers_end_with_whoever_began_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_environment(tmp_path / "env", monkeypatch)
    note = tmp_path / "pid"
    code = (
        "from corpora.simulation.libero import process\n"
        f"list(process.told_by([{{'module': 'tests.builders.libero_deadly', 'note': {str(note)!r}}}]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 30
    while not note.exists() and time.monotonic() < until:
        time.sleep(0.05)
    worker = int(note.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.05)
