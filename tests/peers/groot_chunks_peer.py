"""Run by an environment that has numpy, scipy and safetensors, without giza: what NVIDIA's own code makes of an end effector's chunks.

    python groot_chunks_peer.py CHECKOUT FILE

CHECKOUT: a checkout of Isaac-GR00T N1.7. Writes to FILE the states and actions of an episode, and what N1.7 normalises its chunks
to: the end effector relative to the state, with statistics of each step, the gripper as it is, by percentiles.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from safetensors.numpy import save_file
from scipy.spatial.transform import Rotation

ROWS, HORIZON = 34, 5


def episode() -> dict[str, np.ndarray]:
    """Place [N, 3], rotation [N, 3, 3] and gripper [N, 1] of state and action, which is a bit ahead of it."""
    t = np.arange(ROWS + 1) / 10
    place = np.stack([0.3 * np.sin(t), 0.2 * np.cos(1.7 * t), 0.1 * t], 1)
    turns = Rotation.from_rotvec(np.stack([np.sin(0.9 * t), 0.5 * np.cos(t), 0.3 * t], 1)).as_matrix()
    gripper = 0.5 + 0.5 * np.sin(2 * t[:, None])
    parts = {"place": place, "turn": turns, "gripper": gripper}
    rows = {"state": slice(0, ROWS), "action": slice(1, ROWS + 1)}
    return {
        f"{kind}.{name}": np.ascontiguousarray(part[at]) for kind, at in rows.items() for name, part in parts.items()
    }


def poses(found: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """[N, 9]: place, and the first two rows of the rotation."""
    return np.concatenate([found[f"{kind}.place"], found[f"{kind}.turn"][:, :2].reshape(-1, 6)], 1)


def statistics(values: np.ndarray) -> dict[str, list[Any]]:
    named = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    named |= {"q01": np.quantile(values, 0.01, axis=0), "q99": np.quantile(values, 0.99, axis=0)}
    return {name: value.tolist() for name, value in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    for name in ("gr00t", "gr00t.data", "gr00t.data.state_action", "gr00t.configs", "gr00t.configs.data"):
        package = types.ModuleType(name)
        package.__path__ = [str(given.checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules |= dict.fromkeys(("pandas", "tqdm"), MagicMock())
    from gr00t.data.state_action.action_chunking import EndEffectorActionChunk
    from gr00t.data.state_action.pose import EndEffectorPose
    from gr00t.data.state_action.state_action_processor import StateActionProcessor
    from gr00t.data.types import ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig

    found = episode()
    state, action = poses(found, "state"), poses(found, "action")
    six = ActionFormat.XYZ_ROT6D
    starts = range(ROWS - HORIZON + 1)

    def relative(row: int) -> np.ndarray:
        """As gr00t/data/stats.py makes statistics of chunks."""
        chunk = EndEffectorActionChunk.from_array(action[row : row + HORIZON], six)
        return chunk.relative_chunking(reference_frame=EndEffectorPose.from_action_format(state[row], six)).to(six)

    names = ["eef_9d", "gripper"]
    modality = {
        "state": ModalityConfig([0], names),
        "action": ModalityConfig(
            list(range(HORIZON)),
            names,
            action_configs=[
                ActionConfig(ActionRepresentation.RELATIVE, ActionType.EEF, six, "eef_9d"),
                ActionConfig(ActionRepresentation.ABSOLUTE, ActionType.NON_EEF, ActionFormat.DEFAULT),
            ],
        ),
    }
    known = {
        kind: {"eef_9d": statistics(rows), "gripper": statistics(found[f"{kind}.gripper"])}
        for kind, rows in (("state", state), ("action", action))
    }
    known["relative_action"] = {"eef_9d": statistics(np.stack([relative(row) for row in starts]))}
    processor = StateActionProcessor({"arm": modality}, {"arm": known}, use_percentiles=True, use_relative_action=True)
    chunks, states, back = [], [], []
    for row in starts:
        seen = {"eef_9d": state[row : row + 1], "gripper": found["state.gripper"][row : row + 1]}
        done = {"eef_9d": action[row : row + HORIZON], "gripper": found["action.gripper"][row : row + HORIZON]}
        normal_state, normal = processor.apply(seen, done, "arm")
        chunks.append(np.concatenate([normal[name] for name in names], -1))
        states.append(np.concatenate([normal_state[name][0] for name in names]))
        undone = processor.unapply_action(normal, "arm", state=seen)
        back.append(np.concatenate([undone[name] for name in names], -1))
    made = {"chunks": np.stack(chunks), "states": np.stack(states), "restored": np.stack(back)}
    save_file({**found, **{name: value.astype(np.float32) for name, value in made.items()}}, given.file)
    print(f'{{"chunks": {len(chunks)}}}')


if __name__ == "__main__":
    main()
