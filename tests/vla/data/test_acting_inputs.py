"""A moment of a robot's episode gives the model the same inputs in training and in acting, by every recipe: pictures, history,
instruction, state; and acting is acting, whatever mode a training left the policy in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_type import Actions
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.nearest import rows_back
from corpora.video.probe import probe
from corpora.video.shown import Converter
from tests.builders.datasets import CAMERAS, FPS, LENGTHS, TASKS, lerobot_v2, truth_of
from tests.builders.policies import some_images, teach
from tests.builders.recipes import small_of
from vla.data.loader import collate
from vla.data.open import open_mixture
from vla.models.behaviour_cloning import BehaviourCloning
from vla.models.dual_system import DualSystemPolicy
from vla.models.world_action import WorldActionPolicy
from vla.noise import NoiseKey
from vla.observation import Observation
from vla.policy import Policy
from vla.recipes import RECIPES
from vla.serving.dual_rate import DualRateRunner
from vla.serving.groot import ServedPolicy

EPISODE, ROWS = 1, (0, 2, 20, LENGTHS[1] - 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_v2(tmp_path_factory.mktemp("data") / "pick")


@pytest.fixture(scope="module")
def frames(data: Path) -> list[NDArray[np.uint8]]:
    """Of the first camera, [96, 160, 3], as its robot sees them."""
    path = data / "videos" / "chunk-000" / CAMERAS[0] / f"episode_{EPISODE:06d}.mp4"
    facts = probe(path)
    convert = Converter(facts.showing)
    return [convert(frame) for _, frame in decoded_frames(path, facts, report=DecodingReport())]


def model_inputs(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the action head is given, call by call: tokens and states."""
    seen: list[dict[str, Any]] = []

    def velocity(self: Any, tokens: Any, x: Any, dims: Any, time: Any, state: Any, mask: Any, robot: Any) -> Any:
        kept = {"dims": dims, "state": state.masked_fill(~mask, 0), "state_mask": mask, "robot": robot}
        seen.append({"tokens": tokens.features.masked_fill(~tokens.mask[..., None], 0), **kept})
        return once(self, tokens, x, dims, time, state, mask, robot)

    def chunks(self: Any, tokens: Any, state: Any, robot: Any) -> Any:
        seen.append({"tokens": tokens.features, "state": state, "robot": robot})
        return once(self, tokens, state, robot)

    def velocities(self: Any, tokens: Any, block: Any, dims: Any, state: Any, mask: Any, robot: Any) -> Any:
        kept = {"dims": dims, "state": state.masked_fill(~mask, 0), "state_mask": mask, "robot": robot}
        # a moment's cameras lie side by side: the one that is not there is taken out
        there = tokens.features[tokens.mask][None]
        seen.append({"tokens": there, "newest": tokens.newest[tokens.newest_there], **kept})
        return once(self, tokens, block, dims, state, mask, robot)

    kind, name, spy = {
        BehaviourCloning: (BehaviourCloning, "_chunks", chunks),
        WorldActionPolicy: (WorldActionPolicy, "velocities", velocities),
    }.get(type(policy), (DualSystemPolicy, "velocity", velocity))  # type: ignore[call-overload]
    once = getattr(kind, name)
    monkeypatch.setattr(kind, name, spy)
    return seen


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_moment_is_the_same_to_the_model_in_training_and_in_acting(
    recipe: str, data: Path, frames: list[NDArray[np.uint8]], tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    history = (0.0,) if recipe == "bc" else (0.2, 0.0)
    policy = small_of(recipe, history_s=history).eval()
    spec = DatasetSpec(
        "pick", "robot", EpisodesAt(data, EpisodeSelection(cameras=CAMERAS[:1])), Actions(), embodiment="gr1"
    )
    cache = tmp_path_factory.getbasetemp() / "cache"
    dataset = open_mixture(MixtureSpec((spec,)), policy, held_out_episodes={"pick": "0"}, cache=cache)[0]
    served = ServedPolicy(policy, "gr1")
    seen = model_inputs(policy, monkeypatch)
    indices = [index for index, group in enumerate(dataset.data.groups) if group.endswith(f"{EPISODE:06d}")]
    policy.trained_on = (dataset.record(),)
    with pytest.raises(ValueError, match="fit 'crop': pictures of 'gr1' were 'stretch' in training"):
        ServedPolicy(policy, "gr1", fit="crop")
    for row in ROWS:
        # as training collates it, beside a camera that the robot does not have
        batch = collate([dataset], [(0, indices[row])], policy.config, cameras=1 if recipe == "bc" else 2)
        with torch.no_grad():
            policy.loss(batch)
        trained = seen.pop()
        shown = [frames[max(0, row - back)] for back in rows_back(history, 1 / FPS)]
        state = truth_of(EPISODE)["observation.state"][row]
        observation = Observation({"head": np.stack(shown)}, state.astype(np.float64), TASKS[EPISODE], row / FPS)
        policy.act(observation, "gr1", noise=NoiseKey(1))
        acted = seen.pop()
        asked = {
            "video": {"head": np.stack(shown)[None]},
            "state": {part.name: state[None, None, part.start : part.end] for part in served.layout.state},
            "language": {served.layout.instruction_key: [[TASKS[EPISODE]]]},
        }
        served.get_action({"observation": asked, "options": {"since_start_s": row / FPS}})
        assert trained.keys() == acted.keys()
        for name, value in trained.items():
            for other in (acted, seen[-1]):
                assert _alike(name, value, other[name]), (row, name)
        seen.clear()


def _alike(name: str, trained: Tensor, acted: Tensor) -> bool:
    if name == "newest":
        return torch.allclose(trained, acted, atol=1e-5)
    if name != "tokens":
        return torch.equal(trained, acted)
    count = min(trained.shape[1], acted.shape[1])  # the camera that is not there is masked, and comes last
    return not trained[:, count:].any() and torch.allclose(trained[:, :count], acted[:, :count], atol=1e-5)


@pytest.mark.parametrize("recipe", ["small", "bc", "n1_5"])
def test_a_policy_in_training_acts_as_in_evaluation_and_stays_in_training(recipe: str) -> None:
    torch.manual_seed(0)
    policy = small_of(recipe, state_dropout=0.5)
    teach(policy, "gr1", 4, 3)
    policy.eval()
    seen = Observation({"head": some_images(1)[0, 0, 0].permute(1, 2, 0).numpy()}, np.ones(4), "open")
    whole = policy.act(seen, noise=NoiseKey(0)).actions
    policy.train()
    modes = {name: module.training for name, module in policy.named_modules()}
    np.testing.assert_array_equal(policy.act(seen, noise=NoiseKey(0)).actions, whole)
    assert modes == {name: module.training for name, module in policy.named_modules()} and policy.training
    with pytest.raises(ValueError, match=r"call policy.eval\(\) first"):
        DualRateRunner(policy, lambda: None, embodiment="gr1")  # type: ignore[arg-type, return-value]


def test_a_robot_that_has_a_state_gives_it() -> None:
    """Without one it would be masked, which the policy saw in training where states were dropped alone."""
    seen = Observation({"head": some_images(1)[0, 0, 0].permute(1, 2, 0).numpy()})
    for dropout in (0.0, 0.5):
        policy = small_of("small", state_dropout=dropout).eval()
        teach(policy, "gr1", 4, 3)
        if dropout:
            assert policy.act(seen).actions.shape[1] == 3
        else:
            with pytest.raises(ValueError, match="no state: 'gr1' has one of 4 numbers"):
                policy.act(seen)
