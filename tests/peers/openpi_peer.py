"""Run by an environment that can import openpi (the lerobot at the revision that it pins, JAX on the CPU), without giza: reads a
LeRobot v2.1 dataset as its trainer does (datasets 3: that lerobot fails with 4).

    python openpi_peer.py CHECKOUT FOLDER

CHECKOUT: src/ and packages/ of openpi, and in site/ whatever of its packages the environment lacks. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

HORIZON = 5


def read(folder: Path) -> dict:
    import numpy as np
    import openpi.shared.normalize as normalize
    from openpi.models.pi0_config import Pi0Config
    from openpi.training.config import DataConfig
    from openpi.training.data_loader import create_torch_dataset

    data = DataConfig(repo_id="giza/export", action_sequence_keys=("action",), prompt_from_task=True)
    dataset = create_torch_dataset(data, HORIZON, Pi0Config())
    items = [dataset[number] for number in range(len(dataset))]
    stats = normalize.RunningStats()
    for item in items:
        stats.update(np.asarray(item["action"], np.float64))
    found = stats.get_statistics()
    return {
        "rows": len(items),
        "prompts": sorted({str(item["prompt"]) for item in items}),
        "action": list(np.shape(items[0]["action"])),
        "first_action": np.asarray(items[0]["action"])[0].tolist(),
        "images": {key: list(value.shape) for key, value in items[0].items() if "images" in key},
        "q01": np.asarray(found.q01).tolist(),
    }


if __name__ == "__main__":
    checkout, data_folder = Path(sys.argv[1]), Path(sys.argv[2])
    for part in ("packages/openpi-client/src", "src", "site"):
        sys.path.insert(0, str(checkout / part))
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HF_LEROBOT_HOME": home, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
        shutil.copytree(data_folder, Path(home) / "giza" / "export")
        print(json.dumps(read(data_folder)))
