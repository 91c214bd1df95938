"""Run by an environment that can import Isaac-GR00T's loaders, without giza: reads a dataset as their trainers do.

    python groot_peer.py CHECKOUT FOLDER

CHECKOUT: a checkout of Isaac-GR00T; N1.5 has `LeRobotSingleDataset`, later generations `LeRobotEpisodeLoader`. Of what their packages
import, pytorch3d (rotations, which these data have none of) and the transforms for training are stood in for where they are not
installed. Prints one line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def stand_in(*names: str) -> None:
    lacking = [name for name in names if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in lacking:
        sys.modules[name] = MagicMock()


def n1_5(folder: Path, parts: dict) -> dict:
    stand_in("pytorch3d", "pytorch3d.transforms", "albumentations", "kornia")
    from gr00t.data.dataset import LeRobotSingleDataset, ModalityConfig

    configs = {
        "video": ModalityConfig(delta_indices=[0], modality_keys=[f"video.{name}" for name in parts["video"]]),
        "state": ModalityConfig(delta_indices=[0], modality_keys=[f"state.{name}" for name in parts["state"]]),
        "action": ModalityConfig(
            delta_indices=list(range(4)), modality_keys=[f"action.{name}" for name in parts["action"]]
        ),
        "language": ModalityConfig(
            delta_indices=[0], modality_keys=[f"annotation.{name}" for name in list(parts["annotation"])[:1]]
        ),
    }
    dataset = LeRobotSingleDataset(folder, configs, "new_embodiment", video_backend="torchvision_av")
    steps = [dataset[number] for number in range(0, len(dataset), max(1, len(dataset) // 20))]
    statistics = dataset.metadata.statistics.action
    return {
        "rows": len(dataset),
        "episodes": len(dataset.trajectory_ids),
        "keys": {key: list(np.shape(value)) for key, value in steps[0].items()},
        "q01": {name: np.asarray(stat.q01).tolist() for name, stat in statistics.items()},
    }


def later(folder: Path, parts: dict) -> dict:
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
    from gr00t.data.types import ModalityConfig

    configs = {
        "video": ModalityConfig(delta_indices=[0], modality_keys=list(parts["video"])),
        "state": ModalityConfig(delta_indices=[0], modality_keys=list(parts["state"])),
        "action": ModalityConfig(delta_indices=list(range(4)), modality_keys=list(parts["action"])),
        "language": ModalityConfig(
            delta_indices=[0], modality_keys=[f"annotation.{name}" for name in list(parts["annotation"])[:1]]
        ),
    }
    loader = LeRobotEpisodeLoader(folder, configs, video_backend="opencv")
    episodes = [loader[number] for number in range(len(loader))]
    statistics = loader.get_dataset_statistics()
    return {
        "rows": sum(len(episode) for episode in episodes),
        "episodes": len(loader),
        "keys": {column: list(np.shape(episodes[0][column].iloc[0])) for column in episodes[0].columns},
        "q01": {name: np.asarray(stat["q01"]).tolist() for name, stat in statistics["action"].items()},
    }


if __name__ == "__main__":
    checkout, data = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(checkout))
    named = json.loads((data / "meta" / "modality.json").read_text())
    read = n1_5 if (checkout / "gr00t" / "data" / "dataset.py").is_file() else later
    print(json.dumps(read(data, named)))
