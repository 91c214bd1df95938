"""`giza label --tracks`: the robot's actions for how a tracked tool moves, in a world where the motion tells the action."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import jobs
from corpora.agent.demonstrated import Demonstrated, Moments
from corpora.agent.motion import ActionsOfMotion, courses, motions
from corpora.agent.track_file import TrackFile
from corpora.clips.corpus import Corpus
from corpora.clips.frames import open_clip_frames
from corpora.episodes.parts import ActionPart
from corpora.mixture.clip_samples import ClipSamples, ClipsAt
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import PseudoActions, TrackActions, Unlabelled
from corpora.mixture.mixture import MixtureSpec, read_mixture
from corpora.mixture.spec import DatasetSpec
from corpora.mixture.views import Window
from jobs.labelling.tracks import dims_told
from tests.builders.toy_world import toy_corpus, toy_robot, toy_tracks, world
from vla.actions.space import ActionSpace
from vla.checkpoint import build_policy
from vla.data.loader import collate
from vla.data.open import open_mixture
from vla.recipes import RECIPES

CLIPS, COUNT, ROWS = (50, 51, 52, 53), 40, 60
ROBOTS = (0, 1, 2, 4)
UNSEEN = (10, 11, 12)
"""Frames of the first clip; the last clip has no track."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """block: a robot; files: its tracks; clips: a corpus; tracks: its own."""
    home = tmp_path_factory.mktemp("track")
    toy_robot(home / "block", ROBOTS, ROWS, gripper=True)
    for episode, seed in enumerate(ROBOTS):
        toy_tracks(home / "files" / "block" / f"episode_{episode:06d}.npz", seed, ROWS)
    toy_corpus(home / "clips", CLIPS, COUNT, truth=True)
    for seed in CLIPS[:-1]:
        path = home / "clip_files" / f"{seed:016x}.npz"
        toy_tracks(path, seed, COUNT, 3.0, UNSEEN if seed == CLIPS[0] else ())
    jobs.track(home / "clips", home / "tracks", source="files", files=home / "clip_files")
    return home


def labelled(home: Path, out: Path, **changes):
    fields: dict = {"robot": home / "block", "corpus": home / "clips", "embodiment": "block", "horizon": 1}
    fields |= {"tracks": home / "tracks", "robot_tracks": home / "files", "image_size": 32, "cache": home / "cache"}
    return jobs.label(out, **{**fields, "held_share": 0.25, **changes})


@pytest.fixture(scope="module")
def labels(home: Path) -> Path:
    return labelled(home, home / "labels").folder


def spec_of(home: Path, labels: Path) -> DatasetSpec:
    return DatasetSpec("video", "human", ClipsAt(home / "clips"), TrackActions(labels), embodiment="block")


def samples_of(home: Path, spec: DatasetSpec, horizon: int = 1) -> ClipSamples:
    clips = open_clip_frames(Corpus(home / "clips"), 32, cache=home / "cache")
    return ClipSamples(spec, clips, Window(horizon), spec.label.read(clips, "block", horizon))


def test_where_the_motion_tells_the_action_the_labels_are_that(home: Path, labels: Path) -> None:
    wanted = []
    for seed in CLIPS[:-1]:
        lost = {frame - back for frame in UNSEEN for back in (0, 1)} if seed == CLIPS[0] else set()
        wanted += [world(seed, COUNT)[2][frame] for frame in range(COUNT - 1) if frame not in lost]
    found = samples_of(home, spec_of(home, labels))
    chunks = found.numbers(range(len(found))).chunks
    assert chunks.shape == (3 * (COUNT - 1) - len(UNSEEN) - 1, 1, 3)
    assert np.abs(chunks[:, 0, :2] - np.stack(wanted)).max() < 0.03 * np.abs(wanted).max()
    assert np.ptp(chunks[..., 2]) == 0, "the gripper's mean stands for what is not told"


def test_frames_that_are_not_seen_have_no_label_and_are_counted(labels: Path) -> None:
    summary = json.loads((labels / "_label.json").read_text())
    assert summary["frames_without"] == {"clip without a track": COUNT, "no position": 3, "none a gap later": 4}
    assert summary["rows"] + sum(summary["frames_without"].values()) == len(CLIPS) * COUNT
    assert (summary["by"], summary["unknown"]) == ("track", ["gripper"])


def test_the_gripper_is_masked_in_what_a_policy_learns_from(home: Path, labels: Path) -> None:
    robot = DatasetSpec("robot", "robot", EpisodesAt(home / "block"), embodiment="block")
    policy = build_policy(RECIPES["debug"].policy)
    opened = open_mixture(MixtureSpec((robot, spec_of(home, labels))), policy, cache=home / "cache")
    batch = collate(opened, [(0, 0), (1, 0), (1, 7)], policy.config, cameras=1)
    assert batch["action_mask"][0, 0, :4].tolist() == [True, True, True, False]
    assert batch["action_mask"][1:, 0, :4].tolist() == [[True, True, False, False]] * 2
    assert not batch["action_mask"][1:, 1:].any(), "steps beyond the label"
    assert (batch["action"][1:, :, 2] == 0).all() and batch["action"][0, 0, 2] != 0
    assert torch.isfinite(batch["action"]).all()


def test_r2_is_reported_beside_the_mean_and_no_motion(home: Path, tmp_path: Path) -> None:
    """Of a chunk of four steps a motion tells the mean action, and its course nearly all of them."""
    summary = labelled(home, tmp_path / "four", horizon=4).summary
    for name, chunks in (("held_out", ROWS - 4), ("truth", 3 * (COUNT - 4) - 2 * len(UNSEEN))):
        found = summary[name]
        assert found["chunks"] == chunks
        assert found["r2_of_chunk_mean"]["track"] > 0.99 > found["r2"]["track"] > 0.9
        assert max(found["r2"]["mean"], found["r2"]["no_motion"]) <= 0.01
    assert summary["held_out"]["episodes"] == 1 and summary["truth"]["clips"] == 3


def test_the_control_gives_each_label_to_another_clip(home: Path, labels: Path) -> None:
    video = MixtureSpec((dataclasses.replace(spec_of(home, labels), label=Unlabelled()),)).labelled(labels)
    assert video.datasets[0].label == TrackActions(labels) and video.datasets[0].embodiment == "block"
    (shuffled,) = video.shuffled(1).datasets
    straight, control = samples_of(home, video.datasets[0]), samples_of(home, shuffled)
    first, second = (each.numbers(range(len(each))).chunks for each in (straight, control))
    assert shuffled.label.description == "track shuffled" and not np.allclose(first, second)
    assert np.allclose(np.sort(first, axis=0), np.sort(second, axis=0))
    assert control[0].action_known is not None and control[0].action_known.tolist() == [True, True, False]


def test_a_pyramid_file_names_it_and_another_kind_of_label_is_refused(home: Path, labels: Path) -> None:
    text = '[[dataset]]\nname = "a"\ntier = "human"\ncorpus = "clips"\nlabel = "{}"\npseudo_actions = "labels"\n'
    text += 'embodiment = "block"\n'
    (home / "track.toml").write_text(text.format("track"))
    mixture = read_mixture(home / "track.toml")
    assert mixture.datasets[0].label == TrackActions(labels)
    assert "gripper not known" in mixture.survey().datasets[0].dims
    wrong = dataclasses.replace(spec_of(home, labels), label=PseudoActions(labels))
    with pytest.raises(
        ValueError, match="holds labels of the kind 'track', not 'inverse-dynamics': say label = \"track\""
    ):
        samples_of(home, wrong)


def test_the_same_command_again_gives_the_same_labels(home: Path, labels: Path, tmp_path: Path) -> None:
    again = labelled(home, tmp_path / "again", part_frames=50)
    parts = sorted(again.folder.glob("part-*.parquet"))
    kept = [path.read_bytes() for path in parts]
    for path in (parts[1], again.folder / "_label.json"):
        path.unlink()
    assert labelled(home, again.folder, part_frames=50).summary["rows_this_run"] < again.summary["rows"]
    assert [path.read_bytes() for path in parts] == kept and len(parts) > 1
    assert labelled(home, labels).summary["already_finished"]


def test_what_does_not_fit_is_named_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for changes, said in (
        ({"robot_tracks": None}, "--tracks and --robot-tracks go together"),
        ({"steps": 5}, "with --tracks nothing is trained"),
        ({"unknown": ("hand",)}, r"--unknown hand: in none of the names of the action \(dy, dx, gripper\)"),
        ({"unknown": ("d", "gripper")}, "leaves no dimension"),
        ({"robot_tracks": home / "clip_files"}, "no.*tells how the tool|nothing in it tells how the tool"),
        ({"tracks": home / "files"}, "holds no finished tracks"),
        ({"horizon": 50}, "shorter --horizon|no clip shows anything"),
    ):
        with pytest.raises(ValueError, match=said):
            labelled(home, out, **changes)
    assert dims_told(("x", "y"), ()).all()


def test_labels_are_known_by_all_that_they_are_made_of(home: Path) -> None:
    known = {}
    for name, changes in {
        "gripper": {},
        "nothing": {"unknown": ()},
        "codec": {"normalisation": "mean_std"},
    }.items():
        known[name] = labelled(home, home / f"by-{name}", **changes).summary["model_hash"]
    assert len(set(known.values())) == 3
    assert labelled(home, home / "by-again").summary["model_hash"] == known["gripper"]


def test_an_episode_without_a_track_is_named_and_the_rest_is_fitted(home: Path, tmp_path: Path, caplog) -> None:
    for episode, seed in enumerate(ROBOTS[:-1]):
        toy_tracks(tmp_path / "files" / "block" / f"episode_{episode:06d}.npz", seed, ROWS)
    found = labelled(home, tmp_path / "out", robot_tracks=tmp_path / "files", held_share=0.0)
    assert "1 episodes have no track" in caplog.text and "episode_000003.npz" in caplog.text
    assert found.summary["training"]["pairs"] == 3 * (ROWS - 1) and not found.summary["held_out"]


def test_a_motion_is_of_known_positions_and_of_the_whole_gap() -> None:
    t_s = np.array([0.0, 0.1, 0.2, 0.31, 0.4])
    position = np.column_stack([t_s, 2 * t_s, np.zeros(5)])
    position[4] = np.nan
    found = motions(t_s, position, 0.1)
    assert np.allclose(found[:3], [0.1, 0.2, 0.0]), "an uneven clock does not look like another speed"
    assert np.isnan(found[3:]).all()
    file = TrackFile(t_s, np.ones((5, 4, 4), bool), np.zeros((5, 2), np.float32), {})
    assert np.isnan(file.positions(t_s)).all()


def test_a_course_is_the_motion_of_half_a_gap_of_one_and_of_more() -> None:
    t_s = np.arange(8) / 10
    position = np.column_stack([t_s**2, t_s, np.zeros(8)])
    position[6] = np.nan
    found, whole = courses(t_s, position, 0.2), motions(t_s, position, 0.2)
    assert np.allclose(found[0], [0.01, 0.1, 0, 0.04, 0.2, 0, 0.09, 0.3, 0])
    assert np.allclose(found[3, 6:], 1.5 * whole[3]), "what is not seen is taken to go on evenly"
    assert np.array_equal(np.isnan(found).any(1), np.isnan(whole).any(1)) and np.isnan(found[4]).all()
    rare = courses(t_s, position, 0.1)
    assert np.allclose(rare[:5, :3], rare[:5, 3:6] / 2), "nor is what lies between two frames"


def test_a_course_tells_the_steps_of_a_chunk_of_a_tool_that_follows_late() -> None:
    rng = np.random.default_rng(0)
    action = np.cumsum(rng.normal(size=(400, 3)), 0)
    action = np.sin(action / 3) + 0.1 * rng.normal(size=action.shape)
    command, position = np.cumsum(action, 0), np.zeros((400, 3))
    for step in range(1, 400):
        position[step] = position[step - 1] + 0.3 * (command[step - 1] - position[step - 1])
    t_s, rows = np.arange(400) / 20, np.arange(380)
    chunks = np.stack([action[row : row + 8] for row in rows])

    loose = position + 0.1 * motions(t_s, position, 0.4)[rows].std() * rng.normal(size=position.shape)

    def r2(motion_of: Callable[..., np.ndarray], seen: np.ndarray) -> float:
        """Of what a track tells that is off, by what the robot's own told."""
        fitted = ActionsOfMotion.fit(motion_of(t_s, position, 0.4)[rows], chunks, gap_s=0.4)
        return float(1 - np.var(fitted(motion_of(t_s, seen, 0.4)[rows]) - chunks) / np.var(chunks))

    for seen, gain in ((position, 0.09), (loose, 0.07)):
        assert r2(courses, seen) > r2(motions, seen) + gain


@pytest.mark.parametrize("presses", [True, False])
def test_what_presses_and_hardly_moves_has_no_label(presses: bool) -> None:
    """A third of the rows push with all their might against a wall; without the wall each motion tells."""
    rng = np.random.default_rng(0)
    action = rng.normal(size=(900, 1, 4))
    motion = 0.1 * action[:, 0, :3]
    if presses:
        motion[:300] = rng.normal(scale=1e-3, size=(300, 3))
    fitted = ActionsOfMotion.fit(motion, action, gap_s=0.2, told=np.array([True, True, True, False]))
    told = fitted.tells(motion)
    assert told[300:].mean() > 0.93 and told[:300].mean() == pytest.approx(0.0 if presses else 1.0, abs=0.03)
    assert not fitted.tells(np.full((1, 3), np.nan)).any()


def test_the_map_is_kept_to_the_bit_and_needs_a_motion() -> None:
    rng = np.random.default_rng(0)
    motion, chunks = rng.normal(size=(30, 3)), rng.normal(size=(30, 4, 2))
    fitted = ActionsOfMotion.fit(motion, chunks, gap_s=0.2)
    again = ActionsOfMotion.from_json(json.loads(json.dumps(fitted.to_json())))
    assert np.array_equal(again(motion), fitted(motion)) and again.gap_s == 0.2
    with pytest.raises(ValueError, match="moves nowhere within 0.2 s"):
        ActionsOfMotion.fit(np.ones((30, 3)), chunks, gap_s=0.2)


def test_what_is_known_of_an_action_is_known_of_its_encoded_numbers() -> None:
    rng = np.random.default_rng(1)
    parts = (ActionPart("tip", (3,)), ActionPart("turn", (0, 1, 2), rotation="euler_xyz"))
    space = ActionSpace.fit(None, rng.normal(size=(20, 2, 4)).astype(np.float32), parts=parts)
    assert space.known_numbers(np.array([True, True, False, True])).tolist() == [True] + [False] * 6
    assert space.known_numbers(np.array([True, True, True, False])).tolist() == [False] + [True] * 6


def test_further_demonstrations_are_looked_up_by_their_task(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the other dataset's, with its track beside the robot's; of the robot itself what is not held out."""
    toy_robot(tmp_path / "other", (7, 8), ROWS, gripper=True)
    files = tmp_path / "files"
    (files / "other").mkdir(parents=True)
    (files / "block").symlink_to(home / "files" / "block")
    for episode, seed in enumerate((7, 8)):
        toy_tracks(files / "other" / f"episode_{episode:06d}.npz", seed, ROWS)
    asked: list[tuple[dict[str, Moments], dict[str, Moments]]] = []
    fit = Demonstrated.fit

    def fitted(learned: dict[str, Moments], more: dict[str, Moments], *rest: object) -> Demonstrated:
        asked.append((learned, more))
        return fit(learned, more, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Demonstrated, "fit", fitted)
    labelled(home, tmp_path / "near", robot_tracks=files, near=tmp_path / "other", near_demos=1)
    ((learned, more),) = asked
    assert [len(np.unique(found.episode)) for found in more.values()] == [1]
    assert sum(len(np.unique(found.episode)) for found in learned.values()) == len(ROBOTS) - 1
    (first,) = more.values()
    assert np.abs(first.chunks[:, 0, :2] - world(7, ROWS)[2][: len(first.chunks)]).max() < 1e-4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"near": Path("other"), "tracks": None, "robot_tracks": None}, "--near other: is of labels by --tracks"),
        ({"near_demos": 2}, "--near-demos 2: of --near, which is not given"),
    ],
)
def test_flags_that_nobody_reads_are_refused(home: Path, tmp_path: Path, fields: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        labelled(home, tmp_path / "x", **fields)
