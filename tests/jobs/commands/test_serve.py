"""giza serve with a real (untrained) policy from disk: what a client gets is what the policy does."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpora.episodes.parts import ActionPart
from jobs.commands.serve import ServeConfig, made_up_observation, main, run
from vla.actions.space import ActionSpace
from vla.checkpoint import build_policy
from vla.embodiment import Embodiment
from vla.noise import NoiseKey
from vla.policy import Policy
from vla.recipes import DEBUG
from vla.serving.client import PolicyClient

CAMERAS = ("observation.images.ego", "observation.images.wrist")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of random weights for a robot with two cameras, 4 states and 4 actions, as training would save it."""
    draw = np.random.default_rng(0)
    parts = (
        ActionPart("arm", (0, 1, 2), (0, 1, 2), displacement=False),
        ActionPart("gripper", (3,), (3,), displacement=False),
    )
    states, actions = draw.normal(size=(50, 4)), draw.normal(size=(50, 4))
    chunks = np.stack([actions[i : i + DEBUG.horizon] for i in range(10)])
    torch.manual_seed(0)
    policy = build_policy(DEBUG)
    space = ActionSpace.fit(states[:10], chunks, parts=parts, frames=(states, actions))
    policy.embodiments["new_embodiment"] = Embodiment("new_embodiment", space, step_s=0.05, cameras=CAMERAS)
    folder = tmp_path_factory.mktemp("policy")
    policy.save_pretrained(folder)
    return folder


def test_a_client_gets_what_the_policy_does(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ServeConfig(
        str(saved), "new_embodiment", port=0, token="abc", allow_kill=True, device="cpu", seed=3, max_message_mb=1
    )
    counts: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: counts.update(run(config)), daemon=True)
    thread.start()
    said, deadline = "", time.monotonic() + 60
    while "chunk " not in said and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capsys.readouterr().out
    port = re.search(r"tcp://127\.0\.0\.1:(\d+)", said)
    assert port is not None, said
    assert "cameras  ego, wrist" in said and said.count("arm (3), gripper (1)") == 2

    policy = Policy.from_pretrained(saved).eval()
    seen = made_up_observation(policy, "new_embodiment", seed=1)
    frames = seen.images.permute(0, 1, 3, 4, 2).numpy()
    large = frames.repeat(2, axis=2).repeat(2, axis=3)  # the server makes them small again by area: the same images
    state = np.linspace(-1, 1, 4, dtype=np.float32)
    asked = {
        "video": {"ego": large[None, 0], "wrist": large[None, 1]},
        "state": {"arm": state[None, None, :3], "gripper": state[None, None, 3:]},
        "language": {"annotation.human.task_description": [["open the drawer"]]},
    }
    with PolicyClient(port=int(port[1]), api_token="abc") as client:
        assert client.get_modality_config()["video"].modality_keys == ("ego", "wrist")
        action, info = client.get_action(asked)
        client.kill_server()
    thread.join(10)
    assert not thread.is_alive()
    assert counts == {"get_modality_config": 1, "get_action": 1, "kill": 1}
    wanted = policy.act_batch(
        seen.images[None],
        seen.image_mask[None],
        ["open the drawer"],
        state[None],
        "new_embodiment",
        noise=[NoiseKey(3, (0,))],
    )
    np.testing.assert_allclose(np.concatenate([action["arm"], action["gripper"]], -1), wanted, rtol=1e-4, atol=1e-5)
    assert info["step_s"] == 0.05


def test_the_dual_rate_runner_measures_a_real_policy(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--policy", str(saved), "--embodiment", "new_embodiment", "--dual-rate-seconds", "0.5", "--device", "cpu"])
    said = capsys.readouterr().out
    report = json.loads(said.strip().splitlines()[-1])
    assert "System 2 (Hz)" in said and "age of the features" in said
    assert report["actions"] + report["missed"]["act"] == pytest.approx(120 * report["seconds"] + 1, abs=1.5)
    assert 0 < report["actions"] <= 60
    assert report["feature_age"]["mean_s"] > report["action_age"]["mean_s"] > 0
    assert report["chunk_duration"]["mean_s"] > 0 and report["think_duration"]["mean_s"] > 0


def test_the_limit_of_staleness_reaches_the_runner(saved: Path) -> None:
    flags = ["--policy", str(saved), "--embodiment", "new_embodiment", "--dual-rate-seconds", "0.5", "--device", "cpu"]
    with pytest.raises(ValueError, match=r"stale_s 0.01: at .* all would be stale"):
        main([*flags, "--stale-s", "0.01"])


def test_the_token_is_taken_from_the_environment_and_not_shown(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the token in the environment other machines may be let in; an address that is none ends it before it serves."""
    monkeypatch.setenv("GIZA_API_TOKEN", "s3cret")
    with pytest.raises(ValueError, match="cannot listen on 192.0.2.1"):
        run(ServeConfig(str(saved), "new_embodiment", host="192.0.2.1", device="cpu"))
    monkeypatch.delenv("GIZA_API_TOKEN")
    with pytest.raises(ValueError, match="other machines"):
        run(ServeConfig(str(saved), "new_embodiment", host="192.0.2.1", device="cpu"))
    monkeypatch.setenv("GIZA_API_TOKEN", "s3cret")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "s3cret" not in capsys.readouterr().out


def test_what_a_user_may_get_wrong(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embodiment 'digit': this policy was trained on new_embodiment"):
        run(ServeConfig(str(saved), "digit", device="cpu"))
    with pytest.raises(ValueError, match="dual_rate_seconds -1"):
        ServeConfig(str(saved), "new_embodiment", dual_rate_seconds=-1)
    modality = tmp_path / "modality.json"
    for content, reason in (
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must hold a map"),
        ('{"video": {"ego": {}, "wrist": {}}, "action": {"arm": {"start": 0, "end": 3}}}', "state of 0"),
    ):
        if content is not None:
            modality.write_text(content)
        with pytest.raises(ValueError, match=reason):
            run(ServeConfig(str(saved), "new_embodiment", port=0, modality=modality, device="cpu"))
