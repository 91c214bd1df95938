"""LIBERO to look at and to act in, one task at a time. Runs in its environment (`make libero`).

An environment takes seconds to make and is kept for all starts of its task. Pictures are drawn by a MuJoCo renderer of our own,
which can leave out what costs most. Import it as a module: what stands in for it in tests has the same names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.simulation.gl import require_offscreen_gl
from corpora.simulation.libero.channel import Say

START_NOISE_RAD = 0.02
"""Standard deviation of the joints at a drawn start, as in LIBERO's stored ones."""
_VISUAL = 1
"""Geom group of what is to be seen."""


def tasks(benchmark: str) -> list[dict[str, Any]]:
    """Name and instruction of each task, in LIBERO's order."""
    return [{"task": task.name, "instruction": task.language} for task in _suite(benchmark).tasks]


def work(order: Mapping[str, Any], say: Say) -> None:
    """Tells the tasks of the order's `benchmark`."""
    import importlib

    say({"tasks": importlib.import_module(order["world"]).tasks(order["benchmark"])})


def _suite(benchmark: str) -> Any:
    require_offscreen_gl(())
    try:
        from libero.libero.benchmark import get_benchmark
    except ImportError as error:
        raise ValueError(
            f"LIBERO is not whole in its environment ({error}): build it again with make libero"
        ) from error
    return get_benchmark(benchmark)()


class World:
    """One task of a suite.

        world = World("libero_object", size=96)
        world.enter("pick_up_the_milk_and_place_it_in_the_basket")
        world.begin(0)                                    # a stored start; or world.scatter(seed), one of its own
        world.step([0, 0, 0, 0, 0, 0, -1])
        world.picture("agentview"), world.state(), world.success

    What happens after `begin` or `scatter` depends on nothing that was done before.
    """

    def __init__(self, benchmark: str, *, size: int, shadows: bool = False) -> None:
        self.benchmark, self.size, self.shadows = benchmark, size, shadows
        self.instruction = ""
        self.success = False
        """Whether LIBERO's criterion of the task holds now."""
        self._suite = _suite(benchmark)
        self._env: Any = None
        self._renderer: Any = None
        self._seen: Mapping[str, Any] = {}

    def enter(self, task: str) -> None:
        """Makes the environment of a task, once. Raises ValueError for a task that the suite does not have."""
        names = [each.name for each in self._suite.tasks]
        if task not in names:
            raise ValueError(f"task '{task}': {self.benchmark} has none of this name")
        from libero.libero import get_libero_path
        from libero.libero.envs.env_wrapper import ControlEnv

        self.close()
        number = names.index(task)
        found = self._suite.tasks[number]
        self._env = ControlEnv(
            bddl_file_name=os.path.join(get_libero_path("bddl_files"), found.problem_folder, found.bddl_file),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            ignore_done=True,  # its count of steps is not set back by a start
            initialization_noise={"magnitude": START_NOISE_RAD, "type": "gaussian"},
        )
        self._env.env.hard_reset = False
        self.instruction = found.language
        self._starts = self._suite.get_task_init_states(number)

    def begin(self, start: int) -> None:
        """The stored initial state of this number. Raises ValueError where there are fewer."""
        if start >= len(self._starts):
            raise ValueError(f"start {start}: LIBERO stores {len(self._starts)} of each task; choose fewer --starts")
        self._reset(0, 0.0)  # of controller and gripper, and of what the physics remembers
        self._seen = self._env.set_init_state(self._starts[start])
        self.success = bool(self._env.check_success())

    def scatter(self, seed: int) -> None:
        """A start that LIBERO draws: objects within their regions, joints with noise."""
        self._reset(seed, START_NOISE_RAD)
        self._seen = self._env.env._get_observations(force_update=True)
        self.success = bool(self._env.check_success())

    def _reset(self, seed: int, noise: float) -> None:
        self._env.robots[0].initialization_noise["magnitude"] = noise
        np.random.seed(seed)  # noqa: NPY002 - LIBERO draws from it
        self._env.reset()
        for robot in self._env.robots:
            robot.gripper.current_action[:] = 0  # how far it is on its way, which a reset leaves as it was

    def step(self, action: Sequence[float]) -> None:
        """[7], each within [-1, 1]: see corpora.simulation.libero.facts.ACTION_NAMES."""
        self._seen, _, done, _ = self._env.step(np.clip(np.asarray(action, np.float64), -1, 1))
        self.success = bool(done)

    def state(self) -> NDArray[np.float32]:
        """[8]: see corpora.simulation.libero.facts.STATE_NAMES."""
        seen = self._seen
        turn = axis_angle(seen["robot0_eef_quat"])
        return np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]]).astype(np.float32)

    def place(self, name: str) -> NDArray[np.float64]:
        """[3] metres: of the "tool", or of one of LIBERO's objects, e.g. "milk_1"."""
        return np.array(self._seen["robot0_eef_pos" if name == "tool" else f"{name}_pos"], np.float64)

    def picture(self, camera: str) -> NDArray[np.uint8]:
        """uint8 [size, size, 3] of one of LIBERO's cameras, upright and mirrored."""
        import mujoco

        sim = self._env.sim
        if self._renderer is None:
            model = sim.model._model
            model.vis.quality.offsamples = 4 if self.shadows else 0
            self._renderer = mujoco.Renderer(model, self.size, self.size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = self.shadows
            self._option = mujoco.MjvOption()
            self._option.geomgroup[:] = 0
            self._option.geomgroup[_VISUAL] = 1
        self._renderer.update_scene(sim.data._data, camera=camera, scene_option=self._option)
        return np.ascontiguousarray(self._renderer.render()[:, ::-1])

    def close(self) -> None:
        """Ends the task's environment."""
        if self._renderer is not None:
            self._renderer.close()
        if self._env is not None:
            self._env.close()
        self._env = self._renderer = None


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3] axis times angle, of x, y, z, w; the angle from 0 to 2 pi, as the published copies have it."""
    x, y, z, w = quaternion
    length = math.sqrt(max(0.0, 1 - w * w))
    if length < 1e-8:
        return np.zeros(3)
    return np.array([x, y, z]) * (2 * math.acos(min(1.0, max(-1.0, w))) / length)
