"""`giza label --tracks --hand`: how a person's hand moves and opens, as the relative chunks of a robot, in the robot's own slot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jobs
from corpora.agent.hands import Hand
from corpora.agent.tracks import Tracks
from corpora.clips.corpus import Corpus
from corpora.episodes.parts import read_parts
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import HandActions, TrackActions
from corpora.mixture.label_type import Actions
from corpora.mixture.labels import held
from corpora.mixture.mixture import MixtureSpec, read_mixture
from corpora.mixture.spec import DatasetSpec
from jobs.commands.label import main
from jobs.labelling.hands import between
from tests.builders.arm import PARTS, arm_robot, hand_file, way
from tests.builders.toy_world import FPS, toy_corpus
from vla.checkpoint import build_policy
from vla.data.loader import TrainingDataset, collate
from vla.data.open import open_mixture
from vla.recipes import RECIPES

COUNT, HORIZON = 40, 8
ROBOTS, CLIPS = (0, 1, 2, 3), (1, 2, 3)
"""The first clip is known to the full, of the second neither turn nor opening; the third shows its hand from frame 12 to 30."""
LOST = (*range(12), *range(31, COUNT))
ALL = ("position_m", "turn_xyzw", "opening")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hands")
    arm_robot(home / "arm", ROBOTS, COUNT)
    toy_corpus(home / "clips", CLIPS, COUNT)
    for seed, unseen, known in zip(CLIPS, ((), (), LOST), (ALL, ALL[:1], ALL), strict=True):
        hand_file(home / "files" / f"{seed:016x}.npz", seed, COUNT, 3.0, unseen, known)
    jobs.track(home / "clips", home / "tracks", source="files", files=home / "files")
    for name, frame in (("hand", 'frame = "wrist"'), ("base", "")):
        (home / f"{name}.toml").write_text(PARTS.format(representation="relative", frame=frame))
    return home


def labelled(home: Path, out: Path, **changes: Any) -> Any:
    fields: dict = {"robot": home / "arm", "corpus": home / "clips", "embodiment": "arm", "horizon": HORIZON}
    fields |= {"tracks": home / "tracks", "hand": True, "opens": "high", "action_parts": home / "hand.toml"}
    return jobs.label(out, **{**fields, "image_size": 32, "cache": home / "cache", "held_share": 0.0, **changes})


@pytest.fixture(scope="module")
def labels(home: Path) -> Path:
    return labelled(home, home / "labels").folder


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    """Of a robot whose position is not seen from its hand."""
    return labelled(home, home / "base", action_parts=home / "base.toml").folder


def opened(home: Path, labels: Path, parts: str = "hand.toml", robot: bool = True) -> list[TrainingDataset]:
    own = Actions(parts=read_parts(home / parts))
    arm = DatasetSpec("robot", "robot", EpisodesAt(home / "arm"), own, embodiment="arm")
    video = DatasetSpec("video", "human", ClipsAt(home / "clips"), HandActions(labels), embodiment="arm")
    policy = build_policy(RECIPES["debug"].policy)
    return open_mixture(MixtureSpec((arm, video) if robot else (video,)), policy, held_out=0.0, cache=home / "cache")


def batch_of(datasets: list[TrainingDataset], chosen: list[tuple[int, int]]) -> Any:
    return collate(datasets, chosen, RECIPES["debug"].policy, cameras=1)


def test_a_hand_that_goes_as_the_robot_did_is_the_robots_own_chunk_in_the_robots_own_slot(
    home: Path, labels: Path
) -> None:
    """Wherever its space lies: of N1.7's chunks, seen from the hand, nothing is left of that."""
    datasets = opened(home, labels)
    assert datasets[0].embodiment_id == datasets[1].embodiment_id
    rows = [3, 10, 20]
    ours, robots = (
        batch_of(datasets, [(number, row) for row in at]) for number, at in ((1, rows), (0, [40 + r for r in rows]))
    )
    known, there = ours["action_mask"], robots["action_mask"]
    assert known[..., :10].all() and not known[..., 10:].any() and torch.equal(known, there)
    assert (ours["action"] - robots["action"])[..., :9].abs().max() < 1e-4 < robots["action"][..., :9].std()
    assert not ours["state_mask"].any() and robots["state_mask"].any(), (
        "where the hand is says nothing of the robot's joints"
    )
    wide = np.array([way(1, COUNT)[2][row + 1 : row + 1 + HORIZON] for row in rows])
    assert np.corrcoef(ours["action"][..., 9].numpy().ravel(), wide.ravel())[0, 1] > 0.99


def test_what_is_not_known_is_masked_and_held(home: Path, base: Path) -> None:
    datasets = opened(home, base, "base.toml")
    samples, first = datasets[1].data, COUNT - HORIZON // 2  # labels of a clip that is seen to its end
    two = batch_of(datasets, [(1, first + row) for row in (0, 5, first - 1)])
    assert not two["action_mask"][..., 3:].any(), "neither rotation nor opening"
    assert (two["action"][..., 3:] == 0).all() and two["action_mask"][:2, :, :3].all()
    assert two["action_mask"][2, :, 0].tolist() == [True] * 4 + [False] * 4, "the clip's end"
    assert torch.isfinite(two["action"]).all() and not two["state_mask"].any()
    last = samples[first + first - 1]
    assert last.action is not None and (last.action[3:, :3] == last.action[3, :3]).all()


def test_frames_without_a_label_are_counted_and_the_rest_is_said(labels: Path) -> None:
    summary = json.loads((labels / "_label.json").read_text())
    soon = HORIZON // 2
    blind = {"no position": len(LOST), "no rotation to see it from": COUNT, "lost too soon": 2 * soon}
    assert summary["frames_without"] == blind and summary["rows"] == 3 * COUNT - sum(blind.values())
    assert (summary["by"], summary["unknown"], summary["step_s"]) == ("hand", [], 1 / FPS)
    assert 0.9 < summary["known"]["x"] == summary["known"]["qx"] == summary["known"]["gripper"] < 1
    assert max(summary["beyond_range"].values(), default=0) < 0.1


def test_the_command_says_what_is_known(home: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"robot": "arm", "corpus": "clips", "tracks": "tracks", "action-parts": "hand.toml", "cache": "cache"}
    flags = [word for name, place in fields.items() for word in (f"--{name}", str(home / place))]
    flags += ["--out", str(labels), "--embodiment", "arm", "--horizon", str(HORIZON), "--hand", "--opens", "high"]
    main([*flags, "--image-size", "32", "--held-share", "0"])
    said = " ".join(capsys.readouterr().out.split())
    assert "known: gripper" in said and "without: lost too soon" in said and "frames labelled" in said


def test_without_the_frame_a_motion_is_that_of_the_space(home: Path, base: Path) -> None:
    assert json.loads((base / "_label.json").read_text())["known"]["qx"] < 0.7
    datasets = opened(home, base, "base.toml")
    found = batch_of(datasets, [(1, 3)])["action"][0, :, :3]
    start = {"hand": batch_of(datasets, [(0, 43)])["action"][0, :, :3]}
    assert (found - start["hand"]).abs().max() > 0.1, "its tracks lie in another space than the robot's"


def test_it_is_learned_before_the_robot_is_there_and_named_by_a_pyramid_file(
    home: Path, labels: Path, base: Path
) -> None:
    (alone,) = opened(home, labels, robot=False)
    assert alone.action_space is not None and alone.action_space.encoded_action_dim == 10
    text = '[[dataset]]\nname = "a"\ntier = "human"\ncorpus = "clips"\nlabel = "hand"\npseudo_actions = "labels"\nembodiment = "arm"\n'
    (home / "hand_pyramid.toml").write_text(text)
    mixture = read_mixture(home / "hand_pyramid.toml")
    assert mixture.datasets[0].label == HandActions(labels) and not mixture.survey().faults
    assert mixture.labelled(labels).datasets[0].label == HandActions(labels)
    control = open_mixture(
        mixture.labelled(base).shuffled(1), build_policy(RECIPES["debug"].policy), cache=home / "cache"
    )[0].data
    for index in range(0, len(control), 9):
        sample = control[index]
        assert sample.action is not None and sample.action_known is not None
        assert np.isfinite(sample.action[sample.action_known]).all()
    wrong = dataclasses.replace(mixture.datasets[0], label=TrackActions(labels))
    with pytest.raises(ValueError, match="of the kind 'hand', not 'track': say label = \"hand\""):
        open_mixture(MixtureSpec((wrong,)), build_policy(RECIPES["debug"].policy), cache=home / "cache")


def test_a_robot_of_other_chunks_does_not_take_them(home: Path, labels: Path) -> None:
    with pytest.raises(
        ValueError, match=r"labelled with the action part 'place' as relative none, frame 'wrist', and.*''"
    ):
        opened(home, labels, "base.toml")


def test_an_opening_needs_to_be_told_which_end_is_open(home: Path, tmp_path: Path) -> None:
    mute = labelled(home, tmp_path / "mute", opens="").summary
    assert (mute["unknown"], mute["known"]["gripper"]) == (["gripper"], 0.0)
    found = {}
    for opens in ("high", "low"):
        made = labelled(home, tmp_path / opens, opens=opens).folder
        found[opens] = batch_of(opened(home, made), [(1, 3), (1, 9)])["action"][..., 9]
    assert torch.allclose(found["high"], -found["low"], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tracks": None}, "--hand takes the --tracks of the corpus"),
        ({"robot_tracks": Path(".")}, "neither --robot-tracks nor --near"),
        ({"hand": False, "robot_tracks": Path(".")}, "--action-parts, --wrist, --opens: of labels by --hand"),
        ({"hand": False, "action_parts": None, "opens": ""}, "--tracks and --robot-tracks go together.*or give --hand"),
        (
            {"action_parts": None},
            r"of the robot's action parts action \(absolute\) none could be .*give --action-parts",
        ),
        ({"wrist": "elbow"}, "none could be the position of its end effector called 'elbow'"),
        ({"opening": ("thumb",)}, r"--opening thumb: in the name of no absolute dimension of the action \(x, y"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(home: Path, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as found:
        labelled(home, tmp_path / "out", **changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("known", "said"),
    [((), "know no position_m: .*giza crosspaint"), (ALL[:1], "know no turn_xyzw: .*action parts without the frame")],
)
def test_tracks_that_do_not_know_enough_are_refused(home: Path, tmp_path: Path, known: tuple, said: str) -> None:
    for seed in CLIPS:
        hand_file(tmp_path / "files" / f"{seed:016x}.npz", seed, COUNT, 3.0, (), known)
    jobs.track(home / "clips", tmp_path / "tracks", source="files", files=tmp_path / "files")
    with pytest.raises(ValueError, match=said):
        labelled(home, tmp_path / "out", tracks=tmp_path / "tracks")


def test_tracks_keep_turn_and_opening_and_older_ones_know_none(home: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    corpus = Corpus(home / "clips")
    track = Tracks(home / "tracks", corpus)[f"{CLIPS[0]:016x}"]
    assert np.allclose(track.opening, 2 + 6 * way(CLIPS[0], COUNT)[2][:COUNT], atol=1e-5)
    assert np.isfinite(track.turn_xyzw).all()
    import shutil

    older = shutil.copytree(home / "tracks", tmp_path / "older")
    for path in older.glob("part-*.parquet"):
        table = pq.read_table(path).drop_columns(["turn_xyzw", "opening"])
        pq.write_table(table, path)
    again = Tracks(older, corpus)[f"{CLIPS[0]:016x}"]
    assert np.isnan(again.opening).all() and np.isnan(again.turn_xyzw).all()
    assert (again.position_m == track.position_m).all()


def test_a_hand_opens_in_lengths_of_its_palm() -> None:
    marks = np.zeros((21, 2), np.float32)
    marks[9], marks[4], marks[8] = (0, 40), (-15, 60), (15, 60)
    assert Hand(marks, 1.0, True).opening == pytest.approx(30 / 40) == Hand(3 * marks, 1.0, True).opening
    assert np.isnan(Hand(np.zeros((21, 2), np.float32), 1.0, True).opening)


def test_between_two_frames_a_number_goes_evenly_and_holes_stay() -> None:
    t_s = np.array([0.0, 0.1, 0.2, 0.3])
    values = np.array([[0.0], [1.0], [np.nan], [3.0]])
    found = between(t_s, values, np.array([[0.0, 0.05, 0.1, 0.15, 0.3, 0.31, -0.01]]))[0, :, 0]
    assert np.allclose(found[[0, 1, 2, 4]], [0, 0.5, 1, 3]) and np.isnan(found[[3, 5, 6]]).all()


def test_held_goes_on_with_the_step_before_and_begins_with_the_first_known() -> None:
    nan = np.nan
    values = np.array([[[nan, nan], [1, nan], [nan, nan], [2, nan], [nan, nan]]], np.float32)
    found = held(values)[0]
    assert found[:, 0].tolist() == [1, 1, 1, 2, 2] and np.isnan(found[:, 1]).all()


def test_people_are_pretrained_on_and_the_robot_is_grounded_in_the_same_slot(
    home: Path, labels: Path, tmp_path: Path
) -> None:
    video = DatasetSpec("video", "human", ClipsAt(home / "clips"), HandActions(labels), embodiment="arm")
    model = dataclasses.replace(RECIPES["debug"].policy, state_dropout=0.8, hidden_state="zero")
    given: dict[str, Any] = {"recipe": "debug", "steps": 2, "cache": home / "cache"}
    base = jobs.pretrain(MixtureSpec((video,)), tmp_path / "base", model=model, **given).model
    given["training"] = dataclasses.replace(RECIPES["debug"].training, state_dropout=0.2)
    given |= {"policy": tmp_path / "base", "embodiment": "arm", "action_parts": read_parts(home / "hand.toml")}
    policy = jobs.ground(home / "arm", tmp_path / "policy", **given).model
    assert (base.config.state_dropout, policy.config.state_dropout) == (0.8, 0.2)
    assert policy.embodiment_id("arm") == base.embodiment_id("arm")
    spaces = [each.embodiment("arm").action_space.to_json() for each in (base, policy)]
    assert spaces[0] == spaces[1], "the labels' own, which were fitted on the robot"
