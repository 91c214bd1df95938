"""The Python face of vla: what its docstring shows works, names come lazily, one observation is acted on as a batch of one is."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import vla
from tests.builders.policies import SIZE, teach, tiny_policy
from vla.policy import Backbone
from vla.serving.client import PolicyClient
from vla.serving.groot import server_of
from vla.serving.server import ServerConfig

KEY = vla.NoiseKey(3)


def acting_policy() -> vla.Policy:
    policy = tiny_policy(history_s=(0.5, 0.0))
    teach(policy, "gr1", 4, 3)
    space = policy.embodiments["gr1"].action_space
    policy.embodiments["gr1"] = vla.Embodiment(
        "gr1", space, 0.1, ("observation.images.head", "observation.images.wrist")
    )
    return policy


def image(seed: int, side: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, side, side, 3), dtype=np.uint8)


def test_the_names_are_there_and_import_no_torch_until_they_are_used() -> None:
    code = "import sys, vla; sys.exit('torch' in sys.modules or 'ActionSpace' not in dir(vla))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(getattr(vla, name) is not None for name in vla.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Robot'"):
        _ = vla.Robot


def test_an_observation_is_acted_on_as_a_batch_of_one_is() -> None:
    policy = acting_policy()
    head, wrist, state = image(0), image(1), np.array([1.0, 2.0, 3.0, 4.0])
    chunk = policy.act(vla.Observation({"wrist": wrist, "head": head}, state, "open"), noise=KEY)
    images = torch.from_numpy(np.stack([head, wrist])[None]).permute(0, 1, 2, 5, 3, 4)
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    batch = policy.act_batch(images, mask, ["open"], state[None], "gr1", noise=[KEY])
    np.testing.assert_array_equal(chunk.actions, batch[0])
    assert chunk.step_s == 0.1 and chunk.actions.shape == (8, 3)
    mask[:, 1] = False
    images[:, 1] = 0
    alone = policy.act(vla.Observation({"observation.images.head": head}, state, "open"), "gr1", noise=KEY)
    batch = policy.act_batch(images, mask, ["open"], state[None], "gr1", noise=[KEY])
    np.testing.assert_array_equal(alone.actions, batch[0])
    assert np.abs(alone.actions - chunk.actions).max() > 1e-4


def test_what_does_not_fit_the_robot_is_refused_by_name() -> None:
    policy = acting_policy()
    with pytest.raises(ValueError, match="image 'left': the cameras of 'gr1' are observation.images.head"):
        policy.act(vla.Observation({"left": image(0)}, np.zeros(4)))
    with pytest.raises(ValueError, match=r"image 'head': uint8 \[32, 32, 3\]: must be uint8 \[2, height, width, 3\]"):
        policy.act(vla.Observation({"head": image(0)[0]}, np.zeros(4)))
    with pytest.raises(ValueError, match=r"state of shape \[1, 3\]"):
        policy.act(vla.Observation({"head": image(0)}, np.zeros(3)))
    with pytest.raises(ValueError, match="embodiment 'franka': this policy was trained on gr1"):
        policy.act(vla.Observation({"head": image(0)}, np.zeros(4)), "franka")


def test_save_load_and_serve_from_python(tmp_path: Path) -> None:
    policy = acting_policy()
    vla.save(policy, tmp_path)
    again = vla.load(tmp_path, cache_dir=tmp_path / "cache", local_files_only=True)
    server = server_of(again, config=ServerConfig(port=0, allow_kill=True))
    thread = threading.Thread(target=server.serve)
    thread.start()
    with PolicyClient(port=int(server.address.rpartition(":")[2])) as client:
        assert client.ping() and "gr1" in again.embodiments
    server.stop()
    thread.join(10)
    assert not thread.is_alive() and callable(vla.serve)


def test_loading_passes_on_where_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """V14: cache_dir and local_files_only go to the hub's client; the card has licence, tags and datasets."""
    policy = acting_policy()
    policy.measured = {"training": {"members": [{"name": "drawers"}]}}
    policy.save_pretrained(tmp_path)
    asked = {}

    def download(name: str, **where: object) -> str:
        asked.update(where, name=name)
        return str(tmp_path)

    monkeypatch.setattr("corpora.store.hub.snapshot_download", download)
    vla.Policy.from_pretrained("me/drawers", cache_dir=tmp_path / "c", local_files_only=True, revision="v1")
    assert asked["name"] == "me/drawers" and asked["cache_dir"] == tmp_path / "c"
    assert asked["local_files_only"] is True and asked["revision"] == "v1"
    card = (tmp_path / "README.md").read_text()
    head = card.split("---")[1]
    assert "license: apache-2.0" in head and "datasets:\n- drawers" in head and "- robotics" in head


def test_a_head_of_ones_own_is_saved_and_loaded_by_its_name(tmp_path: Path) -> None:
    import dataclasses

    from vla.checkpoint import HEADS, build_policy, register
    from vla.models.behaviour_cloning import BehaviourCloning
    from vla.recipes import BC

    class Mine(BehaviourCloning):
        pass

    register("mine", lambda config, settings: Mine(config))
    try:
        vla.save(build_policy(dataclasses.replace(BC, head="mine")), tmp_path)
        assert isinstance(vla.load(tmp_path), Mine)
        with pytest.raises(ValueError, match="there is one of this name"):
            register("mine", BehaviourCloning)
    finally:
        del HEADS["mine"]
    with pytest.raises(ValueError, match="head 'mine': there are flow, regression"):
        vla.load(tmp_path)


def test_a_backbone_without_language_layers_says_so() -> None:
    policy = tiny_policy()
    assert isinstance(policy.system2, Backbone) and not policy.system2.is_constant
    with pytest.raises(ValueError, match="no language layers"):
        policy.system2.set_trainable(vision=False, top_layers=2)
