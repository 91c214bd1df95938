"""What tests/peers/test_libero.py asks of LIBERO; runs in its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from corpora.simulation.libero.channel import Say
from corpora.simulation.libero.script import REST
from corpora.simulation.libero.world import World

SIZE = 128


def work(order: Mapping[str, Any], say: Say) -> None:
    world = World("libero_object", size=SIZE, shadows=True)
    world.enter(order["task"])

    def tell(what: str) -> None:
        state, picture = world.state(), world.picture("agentview")
        for action in (REST, (0.5, -0.5, -0.5, 0.2, 0, 0, 1), REST):
            world.step(action)
        say({"what": what}, state=state, picture=picture, later=world.state())

    before: set[str] = set()
    for name, number in (("start", 0), ("start", 1), ("scatter", 5), ("scatter", 6), ("scatter", 5), ("start", 0)):
        {"start": world.begin, "scatter": world.scatter}[name](number)
        told = f"{name} {number}"
        tell(f"{told} again" if told in before else told)
        before.add(told)
    world.begin(0)
    own = [world.picture(camera) for camera in ("agentview", "robot0_eye_in_hand")]
    world.close()
    say({"what": "pictures"}, own=np.stack(own), theirs=np.stack(_by_robosuite(order["task"])))


def _by_robosuite(task: str) -> list[Any]:
    """Of start 0, as LIBERO itself gives pictures."""
    from libero.libero import get_libero_path
    from libero.libero.benchmark import get_benchmark
    from libero.libero.envs import OffScreenRenderEnv

    suite = get_benchmark("libero_object")()
    number = [each.name for each in suite.tasks].index(task)
    found = suite.tasks[number]
    bddl = os.path.join(get_libero_path("bddl_files"), found.problem_folder, found.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=SIZE, camera_widths=SIZE)
    env.reset()
    seen = env.set_init_state(suite.get_task_init_states(number)[0])
    return [seen["agentview_image"], seen["robot0_eye_in_hand_image"]]
