"""A policy knows how the pictures that it learned from were painted, and takes no others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs
from corpora.clips.corpus import Corpus
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import Unlabelled
from corpora.mixture.labels import EmbodimentFacts
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.video.view import View
from jobs.evaluation.recorded_chunks import RecordedEpisodes
from tests.builders.policies import tiny_policy
from tests.builders.toy_world import CAMERA, toy_corpus, toy_robot, toy_tracks
from vla.checkpoint import load_policy, save_policy
from vla.data.open import open_mixture
from vla.data.slots import Slot, place
from vla.embodiment import Embodiment
from vla.observation import Observation

COUNT = 24
DOT = View("dot", "inpaint", 0.02, 0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain, dot: a robot's dataset, as it is and painted."""
    home = tmp_path_factory.mktemp("views")
    toy_robot(home / "plain", (0, 1, 2), COUNT)
    for episode in range(3):
        toy_tracks(home / "files" / "plain" / f"episode_{episode:06d}.npz", episode, COUNT)
    jobs.crosspaint(home / "plain", home / "files", home / "dot", agent="dot", dot_radius=0.05, background="inpaint")
    return home


def opened(home: Path, policy: Any, *names: str) -> None:
    specs = tuple(DatasetSpec(name, "robot", EpisodesAt(home / name), embodiment="block") for name in names)
    open_mixture(MixtureSpec(specs), policy, held_out=0.0, cache=home / "cache")


def test_a_policy_keeps_the_view_of_its_training(home: Path, tmp_path: Path) -> None:
    policy = tiny_policy()
    opened(home, policy, "dot")
    assert policy.embodiments["block"].views == {CAMERA: DOT}
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy").embodiments["block"].views == {CAMERA: DOT}
    plain = tiny_policy()
    opened(home, plain, "plain")
    assert plain.embodiments["block"].views == {} and "views" not in plain.embodiments["block"].to_json()


@pytest.mark.parametrize(("first", "second"), [("dot", "plain"), ("plain", "dot")])
def test_two_views_in_one_embodiment_are_refused(home: Path, first: str, second: str) -> None:
    told = {
        "dot": r"painted \(agent dot, radius 0.05, background inpaint, margin 0.02\)",
        "plain": "as the camera saw them",
    }
    said = (
        f"dataset '{second}': its pictures of camera {CAMERA} are {told[second]}, those of .*'block' {told[first]}: one"
    )
    with pytest.raises(ValueError, match=said):
        opened(home, tiny_policy(), first, second)
    policy = tiny_policy()
    opened(home, policy, first)
    with pytest.raises(ValueError, match=said):  # later, in grounding
        opened(home, policy, second)


def test_episodes_of_another_view_are_not_evaluated_on(home: Path, tmp_path: Path) -> None:
    policy = tiny_policy()
    opened(home, policy, "dot")
    RecordedEpisodes(policy, "block", home / "dot", EpisodeSelection("1"), cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="plain'.*are as the camera saw them, those of embodiment 'block' painted"):
        RecordedEpisodes(policy, "block", home / "plain", EpisodeSelection("1"), cache=tmp_path / "cache")


def test_a_camera_that_is_masked_has_no_view_and_each_has_its_own() -> None:
    facts = EmbodimentFacts(("head", "wrist"), 0.1, (), ("x",), views={"head": DOT})
    slot = Slot.new("arm", [facts])
    assert slot.views == {"head": DOT}
    place(EmbodimentFacts(("wrist",), 0.1, (), ("x",)), slot)
    with pytest.raises(ValueError, match="camera wrist are painted .* as the camera saw them"):
        place(dataclasses.replace(facts, views={"head": DOT, "wrist": DOT}), slot)
    joined = Slot.new("arm", [EmbodimentFacts(("wrist",), 0.1, (), ("x",)), facts])
    assert joined.cameras == ("wrist", "head") and joined.views == {"head": DOT}


def test_whoever_acts_by_hand_says_that_the_pictures_are_painted(home: Path) -> None:
    policy = tiny_policy()
    opened(home, policy, "dot")
    image, state = np.zeros((48, 48, 3), np.uint8), np.zeros(2, np.float32)
    seen = Observation({CAMERA: image}, state, "push")
    with pytest.raises(
        ValueError, match="were painted .* and this policy acts on no others: paint them with .*painter_of"
    ):
        policy.act(seen, "block")
    assert policy.act(dataclasses.replace(seen, painted=True), "block").actions.shape[1] == 2
    plain = tiny_policy()
    opened(home, plain, "plain")
    with pytest.raises(ValueError, match="painted: the pictures of 'block' were not painted"):
        plain.act(dataclasses.replace(seen, painted=True), "block")


def test_a_damaged_view_is_named() -> None:
    space = tiny_space()
    good = Embodiment("arm", space, 0.1, ("head",), views={"head": DOT}).to_json()
    assert Embodiment.from_json(json.loads(json.dumps(good))).views == {"head": DOT}
    good["views"]["head"]["radius"] = 3
    with pytest.raises(ValueError, match="view of camera head: unknown field radius"):
        Embodiment.from_json(good)


def tiny_space() -> Any:
    from tests.builders.policies import space_of

    return space_of(0, 2)


def test_a_painted_corpus_has_its_view_unless_it_shows_the_robot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.builders.agents import acted, write_acted, write_files

    for name, robot in (("people", False), ("robot", True)):
        clips = [acted(f"{number + 100 * robot:016x}", number, robot=robot) for number in range(2)]
        write_acted(tmp_path / name, clips, text="push")
        files = write_files(tmp_path / f"{name}_files", clips)
        jobs.track(tmp_path / name, tmp_path / f"{name}_t", source="files", files=files)
    bank = {"robot": tmp_path / "robot", "robot_tracks": tmp_path / "robot_t"}
    for agent, fields, wanted in (
        ("dot", {"dot_radius": 0.05, "background": "inpaint"}, DOT),
        ("none", {}, View("none", "before", 0.02)),
        ("robot", bank, None),
    ):
        out = tmp_path / agent
        jobs.crosspaint(tmp_path / "people", tmp_path / "people_t", out / "c", agent=agent, **fields)
        assert Corpus(out / "c").view == wanted
    assert Corpus(tmp_path / "people").view is None
    spec = DatasetSpec("seen", "human", ClipsAt(tmp_path / "dot" / "c"), Unlabelled())
    policy = tiny_policy()
    (found,) = open_mixture(MixtureSpec((spec,)), policy, held_out=0.0, future_s=0.4, cache=tmp_path / "cache")
    assert found.data.embodiment() is None  # what nobody acts on may be of any view


def test_labels_are_not_read_off_pictures_of_another_view(home: Path, tmp_path: Path) -> None:
    toy_corpus(tmp_path / "clips", (5, 6), COUNT)
    how = {"embodiment": "block", "horizon": 2, "steps": 2, "image_size": 32, "cache": home / "cache"}
    with pytest.raises(
        ValueError, match=r"robot '.*dot' are painted \(agent dot.* corpus '.*clips' as the camera saw them"
    ):
        jobs.label(robot=home / "dot", corpus=tmp_path / "clips", out=tmp_path / "labels", **how)
    assert not (tmp_path / "labels").exists()
