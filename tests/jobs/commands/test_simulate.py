"""`giza simulate`: the checks need no GL; what is drawn is marked `gl`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.episodes.lerobot_writer import BOOKKEEPING
from corpora.simulation import gl as offscreen_gl
from corpora.simulation.episode import EXPERT_ACTION
from corpora.simulation.metaworld import HEAD_POSE, MetaWorldEnv, episode_generator
from corpora.simulation.settings import EpisodeSettings, Look
from jobs.commands.simulate import FORMAT, SimulateConfig, main, run, versions
from tests.builders.cameras import measure_camera_motion, offscreen_gl_available, plane_homography
from tests.builders.datasets import opened

SHORT = EpisodeSettings(max_steps=24, noise=(0.0, 0.5))


def config(out: Path, **changes: object) -> SimulateConfig:
    fields: dict = {"tasks": ("drawer-open",), "episodes": 2, "size": 64, "episode": SHORT}
    return SimulateConfig(out=out, **{**fields, **changes})


def data_files(root: Path) -> dict[str, bytes]:
    """Everything but the summary, which tells how long it took."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "simulate.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def rows_of(root: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(root / "data" / "chunk-000" / "file-000.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.schema.names}


def pictures_of(root: Path) -> np.ndarray:
    video = next((root / "videos").rglob("*.mp4"))
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_config_is_checked(tmp_path: Path) -> None:
    for changes, message in [
        ({"size": 95}, "must be even"),
        ({"camera": "corner9"}, "must be one of head"),
        ({"episodes": 0}, "at least 1"),
        ({"truth": tmp_path / "t.parquet"}, "only with --action-free"),
        ({"truth": tmp_path / "out" / "t.parquet", "action_free": True}, "outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(tmp_path / "out", **changes)


def test_a_missing_gl_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offscreen_gl, "_loads", lambda name, files: False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ValueError, match=r"libOSMesa is not on this machine.*apt-get install libosmesa6"):
        run(config(tmp_path / "out"))


@pytest.mark.parametrize("name", ["simulate.json", ".simulate-settings.json"])
def test_a_folder_of_the_version_without_the_experts_action_is_refused(name: str, tmp_path: Path) -> None:
    if not offscreen_gl_available():
        pytest.skip("no simulator, no versions of it")
    wanted = config(tmp_path / "sim")
    settings = {**wanted.settings(), "versions": versions()}
    (tmp_path / "sim").mkdir()
    record = settings if name.startswith(".") else {"settings": settings, "episodes": 2}
    (tmp_path / "sim" / name).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"format absent there and {FORMAT} here.*another --out, or remove"):
        run(wanted)
    settings["format"] = FORMAT
    (tmp_path / "sim" / name).write_text(json.dumps(record))
    if not name.startswith("."):
        assert run(wanted)["episodes"] == 2


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "sim"
    run(config(out))
    return out


@pytest.mark.gl
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(simulated: Path, tmp_path: Path) -> None:
    run(config(tmp_path / "again"))
    assert data_files(tmp_path / "again") == data_files(simulated)
    run(config(tmp_path / "other", episode=EpisodeSettings(max_steps=24, noise=(0.0, 0.5), seed=1), episodes=1))
    other, mine = rows_of(tmp_path / "other"), rows_of(simulated)
    assert not np.array_equal(other["action"], mine["action"][:24])


@pytest.mark.gl
def test_killed_and_started_again_it_gives_the_same_bytes(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    flags = ["--tasks", "drawer-open", "--episodes", "2", "--size", "64", "--max-steps", "24", "--noise", "0.0", "0.5"]
    command = [sys.executable, "-m", "jobs.cli", "simulate", *flags, "--out", str(out)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / ".staging" / "episode_000000").exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert (out / ".staging" / "episode_000000").exists()
    summary = run(config(out))
    assert data_files(out) == data_files(simulated)
    assert run(config(out)) == {**summary, "already_finished": True}
    with pytest.raises(ValueError, match=r"other settings \(size 64 there and 32 here\)"):
        run(config(out, size=32))


@pytest.mark.gl
def test_a_row_is_state_picture_and_the_action_taken_then(simulated: Path) -> None:
    """Replaying the stored actions from the episode's seed gives the stored states, each beside its picture."""
    rows, pictures = rows_of(simulated), pictures_of(simulated)
    assert len(pictures) == len(rows["action"]) == 48
    env = MetaWorldEnv("drawer-open", Look(size=64))
    for episode in range(2):
        state = env.reset(int(episode_generator(0, "drawer-open", episode, "start").integers(2**31)))
        for k in np.flatnonzero(rows["episode_index"] == episode):
            np.testing.assert_allclose(state, rows["observation.state"][k], atol=1e-6)
            error = np.mean((env.render().astype(float) - pictures[k]) ** 2)
            assert 10 * np.log10(255**2 / error) > 28
            expert = env.expert_action()
            np.testing.assert_allclose(rows[EXPERT_ACTION][k], expert, atol=1e-6)
            if episode == 0:  # noise 0
                np.testing.assert_allclose(rows["action"][k], expert, atol=1e-6)
            else:
                assert np.abs(rows["action"][k] - expert).max() > 1e-3
            state = env.step(rows["action"][k])
    env.close()
    assert np.abs(rows["action"]).max() <= 1
    facts = json.loads((simulated / "simulate.json").read_text())
    assert [fact["noise"] for fact in facts["per_episode"]] == [0.0, 0.5]
    assert facts["frames"] == 48 and facts["frames_per_s"] > 0


@pytest.mark.gl
def test_policies_read_what_the_expert_wanted_and_the_action_done_by_its_name(simulated: Path) -> None:
    rows = rows_of(simulated)
    assert not np.array_equal(rows["action"], rows[EXPERT_ACTION])
    for parts, column in ((), EXPERT_ACTION), (("action",), "action"):
        episodes = opened(simulated, action=parts)
        assert episodes.action is not None
        np.testing.assert_allclose(episodes.action, rows[column], atol=1e-6)
        assert episodes.cameras == ("observation.images.head",)


@pytest.mark.gl
def test_a_moving_camera_watches_the_same_actions_and_its_truth_is_what_the_picture_does(
    simulated: Path, tmp_path: Path
) -> None:
    moving = EpisodeSettings(max_steps=60, noise=(0.0, 0.5), camera_motion=6.0)
    run(config(tmp_path / "moving", episode=moving, size=96, episodes=1))
    rows, pictures = rows_of(tmp_path / "moving"), pictures_of(tmp_path / "moving")
    still = rows_of(simulated)
    np.testing.assert_array_equal(rows["action"][:24], still["action"][:24])
    assert not still["camera.motion"].any()
    points = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 7), np.linspace(-0.3, 0.8, 7)), -1).reshape(-1, 2)
    points = np.column_stack([points, np.ones(len(points))])
    errors, moved = [], []
    for first in range(0, 20, 2):
        truth = plane_homography(HEAD_POSE, rows["camera.motion"][first], rows["camera.motion"][first + 40])
        measured = measure_camera_motion(pictures[first], pictures[first + 40])
        if not measured.ok:  # an arm before plain wood is not always enough to go by
            continue
        a, b = points @ truth.T, points @ np.asarray(measured.h).T
        errors.append(np.linalg.norm(a[:, :2] / a[:, 2:] - b[:, :2] / b[:, 2:], axis=1).mean() * 48)
        moved.append(np.linalg.norm(a[:, :2] / a[:, 2:] - points[:, :2], axis=1).mean() * 48)
    assert len(errors) >= 3
    assert np.mean(moved) > 2
    assert np.median(errors) < 0.35 * np.mean(moved)


@pytest.mark.gl
def test_action_free_has_pictures_and_instructions_only(simulated: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "free", tmp_path / "truth.parquet"
    summary = run(config(out, action_free=True, truth=truth))
    assert set(rows_of(out)) == set(BOOKKEEPING)
    for name, content in {**data_files(out), "simulate.json": (out / "simulate.json").read_bytes()}.items():
        for word in (b"observation.state", b"camera.motion", b'"success"', b"fovy", b"next."):
            assert word not in content, f"{word!r} in {name}"
    assert "success" not in summary and "per_episode" not in summary
    video = "videos/observation.images.head/chunk-000/file-000.mp4"
    assert (out / video).read_bytes() == (simulated / video).read_bytes()
    kept, whole = pq.read_table(truth), rows_of(simulated)
    for name in ("action", "observation.state", "episode_index", "frame_index"):
        np.testing.assert_array_equal(np.array(kept[name].to_pylist()), whole[name])


@pytest.mark.gl
def test_people_are_spread_over_episodes_and_one_is_always_the_same(tmp_path: Path) -> None:
    def skies(people: int) -> int:
        episode = EpisodeSettings(max_steps=8, min_steps=0, frame_every=4, noise=(0.0,), people=people)
        out = tmp_path / str(people)
        run(config(out, episodes=4, appearance="hand", action_free=True, episode=episode))
        corners = pictures_of(out)[::2, :4, -4:].reshape(4, -1, 3).mean(1)
        return len(np.unique(np.rint(corners / 8), axis=0))

    assert skies(1) == 1
    assert skies(50) >= 3
    with pytest.raises(ValueError, match="people 2: only with --appearance hand"):
        config(tmp_path / "robot", episode=EpisodeSettings(people=2))
    with pytest.raises(ValueError, match="people 0: must be at least 1"):
        EpisodeSettings(people=0)


@pytest.mark.gl
def test_frame_every_keeps_the_episode_and_averages_its_actions(simulated: Path, tmp_path: Path) -> None:
    every = EpisodeSettings(max_steps=24, noise=(0.0, 0.5), frame_every=4)
    run(config(tmp_path / "every", episode=every))
    rows, whole = rows_of(tmp_path / "every"), rows_of(simulated)
    np.testing.assert_array_equal(rows["observation.state"], whole["observation.state"][::4])
    np.testing.assert_allclose(rows["action"], whole["action"].reshape(-1, 4, 4).mean(1), atol=1e-6)
    assert json.loads((tmp_path / "every" / "meta" / "info.json").read_text())["fps"] == 20


@pytest.mark.gl
def test_command_line_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tasks", "faucet-close", "--episodes", "1", "--size", "32", "--max-steps", "8", "--out"]
    main([*flags, str(tmp_path / "sim")])
    printed = capsys.readouterr().out
    assert "faucet-close" in printed and "frames_per_s" in printed
    main([*flags, str(tmp_path / "sim")])
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds other files"):
        run(config(tmp_path))


@pytest.mark.gl
@pytest.mark.slow
def test_a_hundred_frames_a_second_on_one_core(tmp_path: Path) -> None:
    summary = run(config(tmp_path / "sim", size=96, episodes=6, episode=EpisodeSettings()))
    assert summary["frames_per_cpu_s"] > 100  # by the CPU's clock: others may use the core as well
