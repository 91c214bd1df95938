"""Run by lerobot's own environment, without giza: loads a dataset as it is, reads every row, and trains one of lerobot's policies.

    python lerobot_peer.py FOLDER [--steps 3] [--policy act] [--convert]

--convert: FOLDER is v2.1, and is first converted, in place, by lerobot's own converter. Prints one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"})

import torch
from lerobot.configs.types import FeatureType
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

SMALL = {
    "act": {
        "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
    },
    "diffusion": {
        "horizon": 8, "n_action_steps": 4, "down_dims": (16, 32), "diffusion_step_embed_dim": 16, "crop_shape": None,
        "spatial_softmax_num_keypoints": 8, "num_train_timesteps": 10,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--policy", choices=list(SMALL), default="act")
    parser.add_argument("--backend", default="")
    parser.add_argument("--convert", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name = f"peer/{given.folder.name}"
    if given.convert:
        from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

        (given.folder.parent / "peer").mkdir(exist_ok=True)
        given.folder = given.folder.rename(given.folder.parent / "peer" / given.folder.name)
        convert_dataset(name, root=given.folder.parent.parent, push_to_hub=False)
    backend = given.backend or decoder()
    meta = LeRobotDatasetMetadata(name, root=given.folder)
    features = dataset_to_policy_features(meta.features)
    outputs = {key: each for key, each in features.items() if each.type is FeatureType.ACTION}
    inputs = {key: each for key, each in features.items() if key not in outputs}
    config = make_policy_config(
        given.policy,
        input_features=inputs,
        output_features=outputs,
        device="cpu",
        push_to_hub=False,
        **SMALL[given.policy],
    )
    whole = LeRobotDataset(name, root=given.folder, video_backend=backend)
    rows = [whole[number] for number in range(len(whole))]
    for row in rows:
        assert all(torch.isfinite(row[key]).all() for key in features), "a number that is not finite"
        assert all(0 <= row[key].min() <= row[key].max() <= 1 for key in whole.meta.camera_keys), "images beyond [0, 1]"
    dataset = LeRobotDataset(
        name, root=given.folder, delta_timestamps=resolve_delta_timestamps(config, meta), video_backend=backend
    )
    policy = get_policy_class(given.policy)(config)
    before, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    batches = iter(torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True))
    losses = []
    for _ in range(given.steps):
        loss, _ = policy.forward(before(next(batches)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses)), losses
    told = {
        "version": meta.info["codebase_version"],
        "episodes": meta.total_episodes,
        "rows": len(whole),
        "actions": list(outputs),
        "action": list(rows[0]["action"].shape),
        "first_action": rows[0]["action"].tolist(),
        "tasks": sorted({row["task"] for row in rows}),
        "stats": sorted(meta.stats["action"]),
        "backend": backend,
        "policy": given.policy,
        "losses": losses,
    }
    print(json.dumps(told))


def decoder() -> str:
    """lerobot's own choice, or PyAV where torchcodec does not find its FFmpeg."""
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return "pyav"
    return "torchcodec"


if __name__ == "__main__":
    main()
