"""A robot's joints and camera tell where it is: against plane geometry, and against what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpora.agent.settings import TrackSettings
from corpora.agent.track_file import TrackFile
from corpora.simulation.robot_file import RobotFile
from jobs.commands.track import TrackConfig, run
from tests.builders.robots import know_made_robots, made_robot

pytestmark = [pytest.mark.gl, pytest.mark.usefixtures("made")]

ARM = """<mujoco><worldbody><geom name="table" type="box" size="2 2 .01" pos="0 0 -.2"/><body name="upper">
<joint name="shoulder" axis="0 0 1" range="-180 180"/><geom type="capsule" fromto="0 0 0 .4 0 0" size=".02"/>
<body name="lower" pos=".4 0 0"><joint name="elbow" axis="0 0 1" range="-150 150"/>
<geom type="capsule" fromto="0 0 0 .25 0 0" size=".02"/><geom type="sphere" pos=".3 0 0" size=".05"/>
<site name="grip" pos=".3 0 0"/></body></body></worldbody></mujoco>"""
ABOVE = "[[1, 0, 0, 0.2], [0, -1, 0, -0.1], [0, 0, -1, 1.5]]"
"""Over the plane at (0.2, -0.1), looking down; right is x, down is -y."""
ROBOT = """model = "arm.xml"
joints = ["shoulder", "elbow"]
tool = "grip"
[camera]
name = "wrist"
width = 320
height = 240
fx = 260.0
fy = 210.0
cx = 170.0
cy = 100.0
pose = """
ANGLES = np.linspace([[0.0, 0.2], [-0.4, 1.0]], [[0.9, -0.8], [0.5, -0.5]], 5, axis=1)  # 2 episodes of 5 rows


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    know_made_robots(monkeypatch)


def robot(folder: Path, text: str = ROBOT + ABOVE, angles: np.ndarray = ANGLES) -> tuple[Path, Path]:
    (folder / "arm.xml").write_text(ARM)
    (folder / "robot.toml").write_text(text)
    return made_robot(
        folder / "arm", angles, np.zeros((*angles.shape[:2], 2)), state_names=("s", "e")
    ), folder / "robot.toml"


def tracks(data: Path, file: Path, out: Path) -> list[TrackFile]:
    run(TrackConfig(data, out, robot=file), quiet=True)
    return [TrackFile.read(path) for path in sorted((out / data.name).glob("*.npz"))]


def test_the_tool_is_where_plane_geometry_has_it_and_the_mask_ends_there(tmp_path: Path) -> None:
    for angles, found in zip(ANGLES, tracks(*robot(tmp_path), tmp_path / "out"), strict=True):
        shoulder, elbow = angles.T
        x = 0.4 * np.cos(shoulder) + 0.3 * np.cos(shoulder + elbow)
        y = 0.4 * np.sin(shoulder) + 0.3 * np.sin(shoulder + elbow)
        np.testing.assert_allclose(found.known["position_m"], np.stack([x, y, 0 * x], 1), atol=1e-5)
        np.testing.assert_allclose(found.known["depth_m"], 1.5, atol=1e-5)
        point = np.stack([170 + 260 * (x - 0.2) / 1.5, 100 - 210 * (y + 0.1) / 1.5], 1)
        np.testing.assert_allclose(found.point_px, point, atol=1e-2)
        assert found.mask.shape == (5, 240, 320)
        columns, rows = np.arange(320), np.arange(240)[:, None]
        for mask, (u, v) in zip(found.mask, found.point_px, strict=True):
            ball = ((columns - u) / 260) ** 2 + ((rows - v) / 210) ** 2 < (0.047 / 1.5) ** 2
            assert (
                mask[ball].all() and 0.01 < mask.mean() < 0.1
            )  # the ball about the tool is drawn; the table is none of it


def test_a_camera_on_the_arm_sees_the_same_all_the_time(tmp_path: Path) -> None:
    data, file = robot(tmp_path, ROBOT + '[[1, 0, 0, 0.3], [0, -1, 0, 0], [0, 0, -1, 0.5]]\nbody = "lower"\n')
    for found in tracks(data, file, tmp_path / "out"):
        np.testing.assert_allclose(found.point_px, [[170, 100]] * 5, atol=1e-2)
        assert (found.mask[1:, :, :170] == found.mask[:1, :, :170]).mean() > 0.95


def test_what_is_not_known_is_not_told_and_a_file_that_is_lost_is_made_again(tmp_path: Path) -> None:
    angles = ANGLES.copy()
    angles[0, 2] = np.nan
    data, file = robot(tmp_path, angles=angles)
    first = tracks(data, file, tmp_path / "out")[0]
    assert not first.mask[2].any() and np.isnan(first.point_px[2]).all() and np.isfinite(first.point_px[[1, 3]]).all()
    path = tmp_path / "out" / "arm" / "episode_000000.npz"
    before = path.read_bytes()
    path.unlink()
    (tmp_path / "out" / "_track.json").unlink()
    run(TrackConfig(data, tmp_path / "out", robot=file), quiet=True)
    assert path.read_bytes() == before


def test_degrees_are_radians_where_the_file_says_so(tmp_path: Path) -> None:
    found = []
    for unit, angles in (("rad", ANGLES), ("deg", np.degrees(ANGLES))):
        (tmp_path / unit).mkdir()
        found.append(
            tracks(*robot(tmp_path / unit, f'unit = "{unit}"\n{ROBOT}{ABOVE}', angles), tmp_path / unit / "out")
        )
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.point_px, other.point_px, atol=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"elbow"]', '"elbw"]', r"no joint 'elbw'. Did you mean 'elbow'"),
        ('"grip"', '"gripper"', r"no site or body 'gripper'"),
        (
            'joints = ["shoulder", "elbow"]',
            'joints = ["shoulder"]',
            r"1 joints \(shoulder\) and 2 dimensions of state \(s, e\)",
        ),
        ('["shoulder", "elbow"]', '["shoulder", "elbow"]\nunit = "deg"\nbodies = ["base"]', r"no body 'base'"),
        ("0, -1, 0, -0.1", "0, 1, 0, -0.1", "no rotation"),
        (ABOVE, "[[1, 0, 0, 9], [0, -1, 0, 9], [0, 0, -1, 1.5]]", "would see the robot in none of 10 images"),
        ("fx = 260.0", "", "fx.*lacking"),
        ("arm.xml", "leg.xml", "leg.xml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    data, file = robot(tmp_path, (ROBOT + ABOVE).replace(old, new))
    with pytest.raises(ValueError, match=told):
        run(TrackConfig(data, tmp_path / "out", robot=file), quiet=True)
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_flags_of_clips_are_refused(tmp_path: Path) -> None:
    data, file = robot(tmp_path)
    with pytest.raises(ValueError, match="^--hand left: is of clips, and with --robot the tracks are the robot's"):
        run(TrackConfig(data, tmp_path / "out", TrackSettings(hand="left"), robot=file), quiet=True)


def test_degrees_are_not_taken_for_radians(tmp_path: Path) -> None:
    data, file = robot(tmp_path, angles=np.degrees(ANGLES))
    with pytest.raises(
        ValueError, match=r"'s' goes from -22.9 to 51.6, its joint 'shoulder' from -3.14 to 3.14 radians: is `unit`"
    ):
        run(TrackConfig(data, tmp_path / "out", robot=file), quiet=True)


def test_the_file_that_is_documented_is_read(tmp_path: Path) -> None:
    import corpora.simulation.robot_file as module

    text = "\n".join(line[4:] for line in (module.__doc__ or "").splitlines() if line.startswith("    "))
    (tmp_path / "robot.toml").write_text(text.replace(", ...]", "]"))
    assert RobotFile.read(tmp_path / "robot.toml").camera.body == "hand"
