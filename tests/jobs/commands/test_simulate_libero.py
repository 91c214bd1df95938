"""`giza simulate --benchmark libero`, on a stand-in for LIBERO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import jobs
from corpora.episodes.opening import open_episodes
from corpora.episodes.selection import EpisodeSelection
from corpora.simulation.episode import EXPERT_ACTION
from corpora.simulation.libero.facts import ACTION_NAMES, CONTROL_HZ, STATE_NAMES, LiberoLook
from jobs.cli import main
from jobs.commands import simulate_libero
from jobs.commands.simulate_libero import LiberoSimulateConfig, run
from tests.builders.libero import fake_environment
from tests.jobs.commands.test_simulate import data_files

WORDS = ["simulate", "--benchmark", "libero", "--tasks", "milk", "butter", "--episodes", "2", "--size", "32"]
WORDS += ["--tries", "2", "--workers", "1"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_environment(tmp_path / "env", monkeypatch)


def test_successes_alone_are_kept_in_the_published_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert main([*WORDS, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "0 of 2" in said.out and "butter, episode 1: none of 2 tries succeeded" in caplog.text
    opened = open_episodes(out, EpisodeSelection())
    assert [each.instruction for each in opened.episodes] == ["pick up the milk and place it in the basket"] * 2
    first = opened.episodes[0]
    assert first.state is not None and first.state.shape[1] == len(STATE_NAMES)
    assert first.action.shape == (len(first.t_s), len(ACTION_NAMES))
    assert first.t_s[1] == pytest.approx(1 / CONTROL_HZ) and list(first.videos) == ["observation.images.image"]
    rows = pq.read_table(out / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    number, success = np.array(rows["episode_index"]), np.array(rows["next.success"])
    assert [bool(success[number == each][-1]) for each in (0, 1)] == [True, True]
    still, noisy = (number == each for each in (0, 1))
    done, wanted = np.array(rows["action"]), np.array(rows[EXPERT_ACTION])
    np.testing.assert_array_equal(done[still], wanted[still])
    assert np.abs(done - wanted)[noisy].max() > 0.1
    np.testing.assert_array_equal(first.action, wanted[still].astype(np.float32))  # the script's own is to be imitated
    assert main([*WORDS, "--out", str(out)]) == 0
    assert "already finished" in capsys.readouterr().out
    assert main(["multiply", "--demos", str(out), "--into", "4", "--out", str(tmp_path / "more")]) == 2
    assert "Meta-World" in capsys.readouterr().err


def test_a_killed_job_goes_on_and_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(out: str) -> LiberoSimulateConfig:
        return LiberoSimulateConfig(tmp_path / out, tasks=("milk",), episodes=3, workers=1, look=LiberoLook(32))

    whole = run(config("whole"))
    real, written = simulate_libero._write_episode, []

    def dies(*given: object) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(given)
        real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(simulate_libero, "_write_episode", dies)
        with pytest.raises(KeyboardInterrupt):
            run(config("killed"))
    again = run(config("killed"))
    assert again["tasks"] == whole["tasks"] == {"milk": {"wanted": 3, "succeeded": 3, "tries": 3}}
    assert data_files(tmp_path / "killed") == data_files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "libreo"], "benchmark 'libreo': giza knows none of this name. Did you mean 'libero'?"),
        (["--benchmark", "libero", "--tasks", "butter", "--episodes", "1"], "no try succeeded"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["simulate", *words, "--out", str(tmp_path / "out")]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("giza simulate:")][-1:]
    assert message in said
    assert not (tmp_path / "out" / "meta").exists()


def test_without_its_environment_it_says_how_to_build_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIZA_LIBERO", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="build it with make libero"):
        jobs.simulate(tmp_path / "out", benchmark="libero", tasks=("milk",), episodes=1)
    assert not (tmp_path / "out").exists()
