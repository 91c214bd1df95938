"""Meta-World to look at and to act in: one task, seeded resets, off-screen images, the scripted expert and its noise.

Nothing here writes a dataset: the same class serves the simulation of episodes and the closed-loop evaluation of a
policy.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.head_camera import CameraPose, looking_at
from corpora.simulation.segments import GOAL, Place
from corpora.simulation.settings import CONTROL_HZ, HEAD_CAMERA, MAX_STEPS, Look
from corpora.simulation.tasks import INSTRUCTIONS, task_name

if TYPE_CHECKING:
    import mujoco

    from corpora.simulation.appearance import Person

ACTION_NAMES = ("x", "y", "z", "gripper")
"""Each in [-1, 1]: x, y, z move the hand's target by up to 10 mm a step, gripper opens (-1) or closes (+1)."""
STATE_NAMES = (
    *("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening"),
    *(f"joint_{number}_rad" for number in range(7)),
)
"""What the robot itself can know: no pose of an object, no goal."""

HEAD_POSE = looking_at((0.62, 0.12, 0.68), (0.0, 0.68, 0.2), fovy_deg=50.0)
VIEW_DISTANCE_M = 0.95
"""From the head camera to the things that move."""

_NOT_DRAWN = 5
"""A geom group of MuJoCo's that Meta-World leaves empty."""

_FAUCET_HANDLE_M = 0.175
_FAUCET_RADIUS_M = 0.07
_FAUCET_WAYS: tuple[tuple[Literal["open", "close"], int, str, tuple[float, float, float]], ...] = (
    ("open", +1, "handleStartOpen", (-0.04, 0.0, 0.02)),
    ("close", -1, "handleStartClose", (0.0, 0.0, -0.01)),
)
"""Meta-World's success criteria of faucet-open and faucet-close (their `compute_reward`): way, side of the goal, the site on
the handle and the offset from it of the point that must come to the goal."""


def episode_generator(seed: int, task: str, episode: int, stream: str) -> np.random.Generator:
    """A generator that depends on these four alone, so that an episode does not depend on those before it."""
    words = [seed, zlib.crc32(task_name(task).encode()), episode, zlib.crc32(stream.encode())]
    return np.random.default_rng(np.random.SeedSequence(words))


def smooth_noise(
    rng: np.random.Generator, steps: int, level: float, *, smoothing_s: float, hz: int = CONTROL_HZ, dims: int = 4
) -> NDArray[np.float64]:
    """float64 [steps, dims]: Gaussian noise of standard deviation `level`, smoothed over time by a Gaussian window of
    standard deviation `smoothing_s`, independent for each coordinate of the action."""
    width = max(smoothing_s * hz, 1e-6)
    reach = math.ceil(4 * width)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    window /= math.sqrt(float((window**2).sum()))
    white = rng.standard_normal((steps + 2 * reach, dims))
    return level * np.stack([np.convolve(white[:, axis], window, mode="valid") for axis in range(dims)], axis=1)


class MetaWorldEnv:
    """One Meta-World task with its expert and a camera.

        env = MetaWorldEnv("drawer-open", Look(size=96))
        state = env.reset(seed=3)                      # float32 [11], see STATE_NAMES
        while not env.success and env.steps < 250:
            image = env.render()                     # uint8 [96, 96, 3]
            state = env.step(policy(image, env.instruction, state))
        env.close()

    The same seed gives the same episode whatever the environment did before. The goal is drawn anew at each reset.
    Raises ValueError for an unknown task and where the simulator or its GL library is missing.
    """

    def __init__(self, task: str, look: Look | None = None) -> None:
        self.task = task_name(task)
        self.look = look or Look()
        self.instruction = INSTRUCTIONS[self.task]
        require_offscreen_gl()
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        env: Any = ALL_V3_ENVIRONMENTS[f"{self.task}-v3"]()
        # What Meta-World's benchmarks do by set_task, without its pickles: a random start for each reset, and an expert
        # that is told the goal whether or not it is drawn. The cached bounds would clip the goal to zero.
        env._set_task_called = True
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env._partially_observable = False
        del env.sawyer_observation_space
        self._env = env
        expert: Any = ENV_POLICY_MAP[f"{self.task}-v3"]
        self._expert = expert()
        self._observation: NDArray[np.float64] | None = None
        self._joints = [env.model.joint(f"right_j{number}").qposadr[0] for number in range(7)]
        self.steps = 0
        self.success = False
        """Whether the last action reached Meta-World's own criterion."""
        self._renderer: mujoco.Renderer | None = None
        self._pose: CameraPose | None = None
        self._person: tuple[int, Person] | None = None
        self._prepare_model()

    def _prepare_model(self) -> None:
        import mujoco

        from corpora.simulation.appearance import hide_robot

        model = self._env.model
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self.look.size
        self._camera_id = model.camera("corner2" if self.look.camera == HEAD_CAMERA else self.look.camera).id
        if self.look.camera == HEAD_CAMERA:
            model.cam_fovy[self._camera_id] = HEAD_POSE.fovy_deg
        if self.look.appearance != "robot":
            if self.look.appearance == "hand":
                hide_robot(model)
            self._materials = model.mat_rgba.copy()
            self.become(0)
        self._options = mujoco.MjvOption()
        self._groups = model.geom_group.copy()
        if not self.look.show_goal:
            self._options.sitegroup[:] = 0  # every marker of a goal in Meta-World is a site

    def become(self, number: int) -> None:
        """Person `number` acts from now on, in their own room (see corpora.simulation.appearance.person), or the robot does
        there. Raises ValueError where the robot is in its own."""
        import mujoco

        from corpora.simulation.appearance import person, repaint_room

        if self.look.appearance == "robot":
            raise ValueError(f"person {number}: the appearance is 'robot', which is in its own room")
        if self._person is not None and number == self._person[0]:
            return
        self._person = (number, person(number))
        model = self._env.model
        repaint_room(model, self._person[1], self._materials)
        if self._renderer is not None:  # it has the old textures
            self._renderer.render()  # makes our own context current
            for texture in range(model.ntex):
                mujoco.mjr_uploadTexture(model, self._renderer._mjr_context, texture)

    @property
    def pose(self) -> CameraPose:
        """Where the camera is when it stands still."""
        if self.look.camera == HEAD_CAMERA:
            return HEAD_POSE
        if self._pose is None:
            data, model = self._env.data, self._env.model
            x, y, z = (float(value) for value in data.cam_xpos[self._camera_id])
            rows = data.cam_xmat[self._camera_id].reshape(3, 3)
            rotation = tuple((float(a), float(b), float(c)) for a, b, c in rows)
            self._pose = CameraPose((x, y, z), rotation, float(model.cam_fovy[self._camera_id]))
        return self._pose

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Starts the episode that belongs to `seed`; returns the state, float32 [11]."""
        self._env.seed(seed)
        self._observation, _ = self._env.reset()
        self.steps = 0
        self.success = False
        return self.state()

    def state(self) -> NDArray[np.float32]:
        """float32 [11], see STATE_NAMES."""
        observation = self._observed()
        return np.concatenate([observation[:4], self._env.data.qpos[self._joints]]).astype(np.float32)

    def places(self, names: Sequence[str]) -> tuple[Place, ...]:
        """Where these bodies of the model stand now, and GOAL the task's target. Physics goes on as if nobody had looked."""
        import mujoco

        model, data = self._env.model, self._env.data
        looked = mujoco.MjData(model)  # Meta-World moves bodies at a reset, and the data learn of it at the next step
        looked.qpos[:], looked.mocap_pos[:], looked.mocap_quat[:] = data.qpos, data.mocap_pos, data.mocap_quat
        mujoco.mj_kinematics(model, looked)
        found = {
            name: Place(looked.body(name).xpos.copy(), looked.body(name).xmat.reshape(3, 3).copy())
            for name in names
            if name != GOAL
        }
        return tuple(found.get(name) or Place(np.array(self._env._target_pos, np.float64)) for name in names)

    def faucet_turned(self) -> Literal["open", "close"] | None:
        """Which way the faucet is turned by now; None in between and in scenes without a faucet.

        faucet-open and faucet-close hold the same faucet, and each asks that its side of the handle come within
        `_FAUCET_RADIUS_M` of a point a quarter turn away; here both criteria are asked in either scene.
        """
        model, data = self._env.model, self._env.data
        if not self.task.startswith("faucet-"):
            return None
        base = model.body("faucetBase").pos
        for way, side, site, offset in _FAUCET_WAYS:
            handle = data.site(site).xpos + np.asarray(offset)
            if np.linalg.norm(handle - base - (side * _FAUCET_HANDLE_M, 0.0, 0.125)) <= _FAUCET_RADIUS_M:
                return way
        return None

    def expert_action(self) -> NDArray[np.float64]:
        """float64 [4]: what Meta-World's script would do here, clipped to [-1, 1]."""
        with warnings.catch_warnings():
            # The scripts ask for more than the actuators give, and say so at every step.
            warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high", category=UserWarning)
            action = self._expert.get_action(self._observed())
        return np.clip(np.asarray(action, np.float64), -1, 1)

    def step(self, action: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Takes an action [4] (clipped to [-1, 1]) for one control step of 12.5 ms; returns the state after it.

        Raises ValueError for an action of another shape or with NaN, and past MAX_STEPS.
        """
        taken = np.asarray(action, np.float32)
        if taken.shape != (4,) or not np.isfinite(taken).all():
            raise ValueError(f"action {taken}: must be 4 finite numbers, see corpora.simulation.metaworld.ACTION_NAMES")
        if self.steps >= MAX_STEPS:
            raise ValueError(f"step {self.steps}: Meta-World ends an episode after {MAX_STEPS} steps; call reset")
        self._observed()
        self._observation, _, _, _, info = self._env.step(np.clip(taken, -1, 1))
        self.steps += 1
        self.success = bool(info["success"])
        return self.state()

    def render(self, motion: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """The image, uint8 [size, size, 3] RGB, with the camera moved by `motion` [6] (see corpora.simulation.head_camera)."""
        return self._scene(motion).render()

    def agent_mask(self, motion: NDArray[np.float64] | None = None) -> NDArray[np.bool_]:
        """bool [size, size]: where `render` shows the robot or the hand."""
        import mujoco

        from corpora.simulation.appearance import HAND, robot_geoms

        renderer = self._scene(motion)
        renderer.enable_segmentation_rendering()
        try:
            number, kind = np.moveaxis(renderer.render(), 2, 0)
        finally:
            renderer.disable_segmentation_rendering()
        if self.look.appearance == "hand":
            return np.asarray((kind == HAND) & (number == 0))
        geom = kind == mujoco.mjtObj.mjOBJ_GEOM
        return np.asarray(geom & robot_geoms(self._env.model)[np.where(geom, number, 0)])

    def tool(self, motion: NDArray[np.float64] | None = None) -> tuple[NDArray[np.float32], float, NDArray[np.float32]]:
        """The point between the tips of the gripper, or of thumb and fingers: x and y in the image [2], pixels (centres at
        whole numbers; NaN behind the camera), its depth along the camera's axis, and its place in the world [3], metres."""
        tips = [self._env.data.site(name).xpos for name in ("rightEndEffector", "leftEndEffector")]
        point = np.mean(tips, axis=0)
        position, rotation = self.pose.moved(np.zeros(6) if motion is None else motion)
        right, up, back = (point - position) @ rotation
        focal_px = self.look.size / 2 / math.tan(math.radians(self.pose.fovy_deg) / 2)
        offset = np.array([right, -up]) * focal_px / -back if back < 0 else np.full(2, np.nan)
        return (self.look.size / 2 - 0.5 + offset).astype(np.float32), -float(back), point.astype(np.float32)

    def _scene(self, motion: NDArray[np.float64] | None) -> mujoco.Renderer:
        """The renderer with everything in its place."""
        import mujoco

        from corpora.simulation.appearance import draw_hand, mark_hand

        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._env.model, self.look.size, self.look.size)
            self._options.geomgroup[_NOT_DRAWN] = 0
        data, model = self._env.data, self._env.model
        position, rotation = self.pose.moved(np.zeros(6) if motion is None else motion)
        data.cam_xpos[self._camera_id] = position
        data.cam_xmat[self._camera_id] = rotation.ravel()
        model.geom_group[:] = np.where(self._out_of_view(position, rotation), _NOT_DRAWN, self._groups)
        renderer = self._renderer
        renderer.update_scene(data, self._camera_id, self._options)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        if self.look.appearance == "hand" and self._person is not None:
            first = renderer.scene.ngeom
            draw_hand(renderer.scene, data, self.pose, self._person[1])
            mark_hand(renderer.scene, first)
        return renderer

    def _out_of_view(self, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool [geoms]: whose bounding sphere lies wholly outside of the image. MuJoCo would send them all to OpenGL,
        and the robot's base and shoulder, mostly unseen, are half of the scene's triangles."""
        data, model = self._env.data, self._env.model
        x, y, z = ((data.geom_xpos - position) @ rotation).T
        half = math.radians(self.pose.fovy_deg) / 2
        beyond = np.maximum(np.abs(x), np.abs(y)) * math.cos(half) + z * math.sin(half)
        radius = model.geom_rbound
        return (radius > 0) & ((beyond > radius) | (z > radius))  # a plane has no radius

    def close(self) -> None:
        """Frees the GL context; a second call does nothing."""
        if self._renderer is not None:
            # MuJoCo frees textures and lists by number in whichever context is current: if that is another environment's,
            # its images lose theirs. Drawing makes our own context current.
            self._renderer.render()
            self._renderer.close()
            self._renderer = None
        self._env.close()

    def _observed(self) -> NDArray[np.float64]:
        if self._observation is None:
            raise ValueError(f"the environment '{self.task}' has not been reset; call reset(seed) first")
        return self._observation


def still_pose(camera: str) -> CameraPose:
    """Where one of CAMERAS stands; the same in every task."""
    if camera == HEAD_CAMERA:
        return HEAD_POSE
    env = MetaWorldEnv("reach", Look(camera=camera))
    try:
        return env.pose
    finally:
        env.close()
