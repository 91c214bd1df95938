"""Where a robot is in each image of its dataset, from its joints and a calibrated camera: MuJoCo poses the robot's model as the
state says and draws it as the camera would have seen it. What stands between robot and camera is not known to it.

    file = RobotFile.read(Path("robot.toml"))
    with PosedRobot(file) as robot:
        episodes = open_episodes("recordings/pick", selection_of(file))
        robot.check(episodes)
        write_tracks(episodes, robot, out, progress)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.track import Progress
from corpora.agent.track_file import TrackFile
from corpora.episodes.episode import Episodes
from corpora.episodes.selection import EpisodeSelection
from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.robot_file import RobotFile
from corpora.store.files import digest_of
from corpora.store.told import closest, listed

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same settings would give other tracks."""
DRAWN_PX = 240
"""The short side of masks, or the camera's own where that is less."""
_BEYOND = 0.05
"""Radians or metres by which a joint may pass the model's range: calibrations are not exact."""
_SAMPLE = 32
"""Rows of a dataset by which the calibration is judged before anything is written."""
_CAMERA = "giza-calibrated"


class PosedRobot:
    """The robot of a `RobotFile`, drawn in any pose. Raises ValueError for a model that does not load, a joint, tool or body that
    it lacks, and where MuJoCo or its GL library is not installed."""

    def __init__(self, file: RobotFile) -> None:
        require_offscreen_gl(("mujoco",))
        import mujoco

        self.file, camera = file, file.camera
        try:
            spec = mujoco.MjSpec.from_file(str(file.model))
            mount = spec.worldbody if camera.body == "world" else spec.body(camera.body)
            if mount is None:
                raise ValueError(f"camera {camera.name} is mounted on '{camera.body}', which is no body of it")
            pose = np.array(camera.pose, float)
            added = mount.add_camera(name=_CAMERA, pos=pose[:, 3])
            turn = pose[:, :3] @ np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z, y up
            mujoco.mju_mat2Quat(added.quat, turn.ravel())
            added.resolution = [camera.width, camera.height]
            added.sensor_size = [camera.width * 1e-5, camera.height * 1e-5]  # any, of the same aspect
            added.focal_pixel = [camera.fx, camera.fy]
            added.principal_pixel = [camera.width / 2 - camera.cx - 0.5, camera.cy + 0.5 - camera.height / 2]
            self._model = spec.compile()
        except ValueError as error:
            raise ValueError(f"model '{file.model}': {error}") from error
        scale = min(1.0, DRAWN_PX / min(camera.width, camera.height))
        self.size = round(camera.width * scale), round(camera.height * scale)
        """(width, height) of masks, pixels."""
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = self.size
        self._model.vis.quality.offsamples = 0  # mixed colours would be other geoms' numbers
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, self.size[1], self.size[0])
        self._renderer.enable_segmentation_rendering()
        self._camera = self._model.camera(_CAMERA).id
        self._joints = [self._joint(name) for name in file.joints]
        self._tool = self._place(file.tool)
        self._robot = self._geoms()

    @property
    def identity(self) -> str:
        """Changes with anything of the model, its meshes and the camera."""
        import mujoco

        whole = np.empty(mujoco.mj_sizeModel(self._model), np.uint8)
        mujoco.mj_saveModel(self._model, None, whole)
        return digest_of(whole.tobytes())

    def _joint(self, name: str) -> int:
        import mujoco

        number = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if number < 0:
            raise self._lacks("joint", name, [self._model.joint(k).name for k in range(self._model.njnt)])
        if self._model.jnt_type[number] not in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
            raise ValueError(
                f"model '{self.file.model}': joint '{name}' is neither hinge nor slide; one number is no pose"
            )
        return int(number)

    def _place(self, name: str) -> Callable[[], NDArray[np.float64]]:
        """Where a site, or body, is."""
        import mujoco

        number = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_SITE, name)
        if number >= 0:
            return lambda: np.array(self._data.site_xpos[number])
        number = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, name)
        if number < 0:
            known = [self._model.site(k).name for k in range(self._model.nsite)]
            raise self._lacks("site or body", name, [*known, *self._bodies])
        return lambda: np.array(self._data.xpos[number])

    @property
    def _bodies(self) -> list[str]:
        return [self._model.body(k).name for k in range(self._model.nbody)]

    def _geoms(self) -> NDArray[np.bool_]:
        """[geoms]: those of the robot, with all that hangs on its bodies."""
        from corpora.simulation.appearance import geoms_of

        model, bodies = self._model, self._bodies
        for name in self.file.bodies:
            if name not in bodies:
                raise self._lacks("body", name, bodies)
        named = {bodies.index(name) for name in self.file.bodies} or {
            number for number in range(model.nbody) if model.body_jntnum[number]
        }
        return geoms_of(model, named)

    def _lacks(self, kind: str, name: str, known: list[str]) -> ValueError:
        return ValueError(f"model '{self.file.model}': has no {kind} '{name}'. {closest(name, filter(None, known))}")

    def check(self, episodes: Episodes) -> None:
        """Raises ValueError where the state cannot be the joints' angles, and where the camera sees the robot in none of a
        sample of rows."""
        import mujoco

        states, names = episodes.state, episodes.state_names
        if states is None:
            raise ValueError(f"dataset '{episodes.name}' has no state: there are no joints to pose the robot by")
        if states.shape[1] != len(self._joints):
            raise ValueError(
                f"{len(self._joints)} joints ({listed(self.file.joints)}) and {states.shape[1]} dimensions of state "
                f"({listed(names)}): each joint wants one, in the same order; choose them with `state`"
            )
        for number, name, values in zip(self._joints, names, self._radians(states).T, strict=True):
            low, high = self._model.jnt_range[number]
            found = values[np.isfinite(values)]
            if (
                self._model.jnt_limited[number]
                and len(found)
                and (found.min() < low - _BEYOND or found.max() > high + _BEYOND)
            ):
                hinge = self._model.jnt_type[number] == mujoco.mjtJoint.mjJNT_HINGE
                unit = "radians: is `unit` right" if hinge else "metres: is it a width in another unit"
                raise ValueError(
                    f"'{name}' goes from {found.min():.3g} to {found.max():.3g}, its joint '{self._model.joint(number).name}' "
                    f"from {low:.3g} to {high:.3g} {unit}, and are the joints in the order of the state?"
                )

        sample = np.linspace(0, len(states) - 1, min(_SAMPLE, len(states))).astype(int)
        found = self.track(episodes.t_s[sample], states[sample])
        if not (found.mask.any((1, 2)) & np.isfinite(found.point_px).all(1)).any():
            camera = self.file.camera
            raise ValueError(
                f"camera {camera.name} would see the robot in none of {len(sample)} images: are its pose (camera to "
                f"{camera.body}, metres) and the model's base right?"
            )

    def _radians(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        import mujoco

        hinge = self._model.jnt_type[self._joints] == mujoco.mjtJoint.mjJNT_HINGE
        scale = np.where(hinge & (self.file.unit == "deg"), np.pi / 180, 1.0)
        return np.asarray(states * scale, np.float64)

    def track(self, t_s: NDArray[np.float64], states: NDArray[np.float32]) -> TrackFile:
        """Of an episode's rows, [N] and [N, joints]. Where a state is not finite nothing is known."""
        import mujoco

        model, data, camera = self._model, self._data, self.file.camera
        known = np.isfinite(states).all(1)
        masks = np.zeros((len(states), self.size[1], self.size[0]), bool)
        point_px = np.full((len(states), 2), np.nan, np.float32)
        depth_m = np.full(len(states), np.nan, np.float32)
        position_m = np.full((len(states), 3), np.nan, np.float32)
        scale = np.array(self.size) / (camera.width, camera.height)
        for row in np.flatnonzero(known):
            mujoco.mj_resetData(model, data)
            data.qpos[model.jnt_qposadr[self._joints]] = self._radians(states[row])
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            self._renderer.update_scene(data, self._camera)
            number, kind = np.moveaxis(self._renderer.render(), 2, 0)
            geom = kind == mujoco.mjtObj.mjOBJ_GEOM
            masks[row] = geom & self._robot[np.where(geom, number, 0)]
            position_m[row] = self._tool()
            right, up, back = (position_m[row] - data.cam_xpos[self._camera]) @ data.cam_xmat[self._camera].reshape(
                3, 3
            )
            depth_m[row] = -back
            if back < 0:
                seen = np.array([camera.fx * right, -camera.fy * up]) / -back + (camera.cx, camera.cy)
                point_px[row] = (seen + 0.5) * scale - 0.5
        return TrackFile(t_s, masks, point_px, {"depth_m": depth_m, "position_m": position_m})

    def __enter__(self) -> PosedRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()


def selection_of(file: RobotFile) -> EpisodeSelection:
    """All episodes, with the state's dimensions that are joints, and the calibrated camera."""
    return EpisodeSelection(failures=True, keep_idle=True, cameras=(file.camera.name,), state=file.state)


def write_tracks(episodes: Episodes, robot: PosedRobot, out: Path, progress: Progress) -> dict[str, Any]:
    """A `TrackFile` for each episode, OUT/<dataset>/episode_000003.npz, and what _track.json says of them. Files that are there
    are kept."""
    frames = seen = 0
    for number, episode in enumerate(episodes.episodes):
        path = out / f"{episode.group}.npz"
        assert episode.state is not None
        if path.is_file():
            track = TrackFile.read(path)
        else:
            track = robot.track(episode.t_s, episode.state)
            track.write(path)
        frames += len(track.t_s)
        seen += int(np.count_nonzero(track.mask.any((1, 2)) & np.isfinite(track.point_px).all(1)))
        progress(number + 1, len(episodes), f"drawing the robot: seen in {seen} of {frames} frames")
    if episodes.left_out:
        log.warning("%s: %s", episodes.name, episodes.left_out)
    return {
        "episodes": len(episodes),
        "left_out": {str(index): reason for index, reason in episodes.faults},
        "frames": frames,
        "seen_frames": seen,
        "seen_share": seen / max(1, frames),
    }
