"""Pseudo-actions in a world where the action is visible: right on clips never seen, the same again, resumed part by part."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from corpora.clips.corpus import MANIFEST, SUMMARY, Corpus
from corpora.clips.frames import open_clip_frames
from corpora.clips.manifest import ManifestWriter
from corpora.clips.parts import SETTINGS
from corpora.episodes.parts import ActionPart
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipSamples, ClipsAt
from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt
from corpora.mixture.label_kinds import PseudoActions
from corpora.mixture.label_type import Actions
from corpora.mixture.mixture import MixtureSpec
from corpora.mixture.spec import DatasetSpec
from corpora.mixture.views import Window
from jobs.commands import label
from jobs.commands.label import MODEL, LabelConfig
from jobs.labelling import robot as robot_of_label
from jobs.labelling.inverse_dynamics import InverseDynamicsTraining, TrainInverseDynamics, train_model
from jobs.training.trainer import CHECKPOINT
from tests.builders.toy_world import FPS, toy_corpus, toy_robot, world
from vla.actions.layout import one_part
from vla.actions.space import ActionSpace
from vla.checkpoint import build_policy
from vla.data.open import open_mixture
from vla.embodiment import Embodiment
from vla.models.config import InverseDynamicsConfig
from vla.models.inverse_dynamics import InverseDynamics
from vla.recipes import RECIPES

HORIZON = 4
CLIPS = (50, 51, 52, 53)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A robot, a corpus of other videos of its world, and the cache of both."""
    root = tmp_path_factory.mktemp("toy")
    return toy_robot(root / "block", (0, 1, 2, 4, 3, 5, 6, 7, 8)), toy_corpus(root / "clips", CLIPS), root / "cache"


def config_of(folders: tuple[Path, Path, Path], out: Path, **changes: object) -> LabelConfig:
    settings: dict = {
        "robot": folders[0],
        "corpus": folders[1],
        "cache": folders[2],
        "out": out,
        "embodiment": "block",
        "steps": 220,
        "horizon": HORIZON,
        "image_size": 32,
        "channels": (16, 32, 32),
        "batch_size": 64,
        "lr": 2e-3,
        "held_share": 0.34,
        "part_frames": 45,
    }
    return LabelConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def labelled(folders: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "pseudo"
    label.run(config_of(folders, out), quiet=True)
    return out


def model_of(**changes: object) -> InverseDynamics:
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(50, 2)).astype(np.float32)
    chunks = np.broadcast_to(actions[:, None], (50, HORIZON, 2))
    codec = ActionSpace.fit(None, chunks)
    torch.manual_seed(0)
    sizes: dict = {"image_size": 32, "horizon": HORIZON, "channels": (8, 16), "hidden": 16, **changes}
    return InverseDynamics(InverseDynamicsConfig(**sizes), Embodiment("block", codec, 0.1, ("top",)))


def pair(seed: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 32, 32)
    return tuple(torch.randint(256, shape, dtype=torch.uint8, generator=generator) for _ in range(2))  # type: ignore[return-value]


def test_the_action_that_is_seen_is_found_far_below_the_mean_chunk(labelled: Path) -> None:
    held = json.loads((labelled / "_label.json").read_text())["held_out"]
    error = {name: found["value"] for name, found in held["normalised_squared_error"].items()}
    assert error["model"] < 0.2 * error["mean_chunk"]
    ratio = held["model_over_baseline"]["mean_chunk"]
    assert held["episodes"] >= 2 and ratio["bootstrap95"][1] < 0.4
    assert error["mean_chunk"] > 0.7, "the baseline itself is near the variance"


def test_its_baseline_that_holds_still_knows_a_displacement(labelled: Path) -> None:
    """What moves the block by nothing is zero, not what it did last, which is near what it does next."""
    errors = json.loads((labelled / "_label.json").read_text())["held_out"]["normalised_squared_error"]
    assert errors["hold_still"]["value"] == pytest.approx(errors["mean_chunk"]["value"], rel=0.2)
    assert errors["hold_still"]["value"] > 1.2 * errors["repeat_last"]["value"]


def test_cropped_clips_are_refused_for_a_model_of_whole_images(folders, tmp_path: Path) -> None:
    corpus = tmp_path / "clips"
    shutil.copytree(folders[1], corpus)
    summary = json.loads((corpus / SUMMARY).read_text())
    summary.setdefault("config", {}).setdefault("settings", {})["fit"] = "crop"
    (corpus / SUMMARY).write_text(json.dumps(summary))
    assert Corpus(corpus).squared_by == ""  # its videos are square
    rows = [dataclasses.replace(row, width=2 * row.height) for row in Corpus(corpus).rows()]
    with ManifestWriter(corpus / MANIFEST) as manifest:
        for row in rows:
            manifest.append(row)
    assert (Corpus(corpus).squared_by, Corpus(folders[1]).squared_by) == ("crop", "")
    with pytest.raises(ValueError, match=r"middle squares of their videos \(--fit crop\).*--fit stretch"):
        label.run(config_of((folders[0], corpus, folders[2]), tmp_path / "out"), quiet=True)


def labelled_clips(folders, labels: Path, horizon: int, embodiment: str = "block") -> ClipSamples:
    clips = open_clip_frames(Corpus(folders[1]), 32, cache=folders[2])
    spec = video_of(folders, labels, embodiment=embodiment)
    return ClipSamples(spec, clips, Window(horizon), spec.label.read(clips, embodiment, horizon))


def video_of(folders, labels: Path, embodiment: str = "block") -> DatasetSpec:
    return DatasetSpec("video", "human", ClipsAt(folders[1]), PseudoActions(labels), embodiment=embodiment)


def test_labels_of_clips_are_the_motion_between_their_frames(folders, labelled: Path) -> None:
    member = labelled_clips(folders, labelled, HORIZON)
    assert len(member) == len(CLIPS) * (40 - HORIZON)
    truth = []
    for seed in CLIPS:
        action = world(seed, 40)[2]
        truth += [action[frame : frame + HORIZON] for frame in range(40 - HORIZON)]
    wanted = np.stack(truth)
    chunks = member.numbers(range(len(member))).chunks
    error = np.square(chunks - wanted).mean()
    assert error < 0.4 * wanted.var()
    sample = member[5]
    assert np.array_equal(sample.action, chunks[5]) and sample.action_mask.all() and sample.state is None


def test_a_longer_chunk_is_cut_and_a_shorter_one_masked(folders, labelled: Path) -> None:
    short = labelled_clips(folders, labelled, HORIZON - 1)
    long = labelled_clips(folders, labelled, HORIZON + 2)
    assert np.array_equal(short[3].action, long[3].action[: HORIZON - 1])
    assert long[3].action_mask.tolist() == [True] * HORIZON + [False] * 2
    with pytest.raises(ValueError, match="those of 'block', not of 'latent'"):
        labelled_clips(folders, labelled, HORIZON, "latent")


def test_the_same_settings_give_the_same_labels_and_an_interrupted_run_too(
    folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in training, then after some of the parts: bit for bit what the uninterrupted run wrote."""
    monkeypatch.setattr(
        "jobs.labelling.inverse_dynamics.InverseDynamicsTraining", partial(InverseDynamicsTraining, val_every_steps=8)
    )
    whole, out = tmp_path / "whole", tmp_path / "again"
    label.run(config_of(folders, whole, steps=10), quiet=True)

    def dies(self: TrainInverseDynamics, outputs: object, batch: object, index: int) -> None:
        if self.global_step == 6:  # the last checkpoint is the fourth's
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainInverseDynamics, "on_train_batch_end", dies)
        with pytest.raises(RuntimeError, match="killed"):
            label.run(config_of(folders, out, steps=10), quiet=True)
    assert torch.load(out / MODEL / CHECKPOINT, weights_only=True)["global_step"] == 4
    label.run(config_of(folders, out, steps=10), quiet=True)
    parts = sorted(path.name for path in whole.glob("part-*.parquet"))
    assert len(parts) > 2
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in parts)
    for lost in (out / "_label.json", out / parts[1]):
        lost.unlink()
    (out / f"{parts[1]}.tmp").write_bytes(b"half")
    summary = label.run(config_of(folders, out, steps=10), quiet=True)
    assert 0 < summary["rows_this_run"] < summary["rows"]
    assert (out / parts[1]).read_bytes() == (whole / parts[1]).read_bytes()
    assert not list(out.glob("*.tmp"))
    assert label.run(config_of(folders, out, steps=10), quiet=True)["already_finished"]


def test_a_folder_of_other_settings_is_refused(folders, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other settings"):
        label.run(config_of(folders, labelled, steps=221), quiet=True)
    info = folders[0] / "meta" / "info.json"
    kept = info.read_text()
    info.write_text(kept + " ")
    with pytest.raises(ValueError, match=r"other settings \(robot_contents"):
        label.run(config_of(folders, labelled), quiet=True)
    info.write_text(kept)
    with pytest.raises(ValueError, match=r"shorter --horizon"):
        label.run(config_of(folders, tmp_path / "far", horizon=200), quiet=True)


def test_a_pyramid_trains_on_pseudo_actions_in_the_robots_slot(folders, labelled: Path) -> None:
    """Alone the labeller's codec is taken; beside the robot its statistics are the robot's alone."""
    video = video_of(folders, labelled)
    some = EpisodesAt(folders[0], EpisodeSelection(episodes="0,1"))
    robot = DatasetSpec("robot", "robot", some, embodiment="block")
    facts = PseudoActions(labelled).facts.robot
    labellers = ActionSpace.from_json(facts.codec).to_json()
    found = {}
    for datasets in ((video,), (robot,), (robot, video)):
        policy = build_policy(RECIPES["debug"].policy)
        opened = open_mixture(MixtureSpec(datasets), policy, cache=folders[2])
        assert all(dataset.action_space is policy.embodiments["block"].action_space for dataset in opened)
        found[datasets] = policy.embodiments["block"]
    assert found[(video,)].action_space.to_json() == labellers
    assert found[(video,)].step_s == pytest.approx(1 / FPS)
    assert found[(robot, video)].action_space.to_json() == found[(robot,)].action_space.to_json() != labellers
    moved = ActionPart("block", (0, 1), (1, 0), "delta")
    relative = dataclasses.replace(robot, label=Actions(parts=(moved,)))
    with pytest.raises(ValueError, match="without a state"):
        open_mixture(MixtureSpec((relative, video)), build_policy(RECIPES["debug"].policy), cache=folders[2])


def simulated(folders: tuple[Path, Path, Path], root: Path) -> Path:
    """The robot with an `action.expert` of zeros, which its modality.json names as giza simulate's does."""
    shutil.copytree(folders[0], root)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["action.expert"] = info["features"]["action"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for path in root.rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column("action.expert", pa.array([[0.0, 0.0]] * len(table))), path)
    expert = {"start": 0, "end": 2, "original_key": "action.expert"}
    state = {"start": 0, "end": 2, "original_key": "observation.state"}
    (root / "meta" / "modality.json").write_text(json.dumps({"state": {"block": state}, "action": {"expert": expert}}))
    return root


def test_of_simulated_data_the_action_done_is_learned_under_the_policys_names(folders, tmp_path: Path) -> None:
    robot = simulated(folders, tmp_path / "sim")
    found = {}
    for action in ((), ("expert",), ("action",)):
        config = config_of(folders, tmp_path / "out", robot=robot, selection=EpisodeSelection(action=action))
        member = robot_of_label.samples_of(config, lambda done, total: None)
        chunks = member.numbers(list(range(20))).chunks
        found[action] = (member.episodes.action_names, bool(chunks.any()))
    assert found == {
        (): (("expert.dy", "expert.dx"), True),
        ("expert",): (("expert.dy", "expert.dx"), False),
        ("action",): (("dy", "dx"), True),
    }
    # what was said of a part lying in `action` itself stays the choice of modality.json
    (robot / "meta" / "modality.json").write_text(json.dumps({"action": {"down": {"start": 0, "end": 1}}}))
    assert robot_of_label.action_done(config_of(folders, tmp_path / "out", robot=robot)) == ()


def test_labels_of_the_experts_action_are_not_resumed_and_new_ones_fit_the_robots_slot(folders, tmp_path: Path) -> None:
    robot = simulated(folders, tmp_path / "sim")
    config = config_of(folders, tmp_path / "out", robot=robot, steps=2)
    label.run(config, quiet=True)
    mixture = MixtureSpec(
        (DatasetSpec("robot", "robot", EpisodesAt(robot), embodiment="block"), video_of(folders, config.out))
    )
    opened = open_mixture(mixture, build_policy(RECIPES["debug"].policy), cache=folders[2])
    assert len(opened) == 2
    record = json.loads((config.out / SETTINGS).read_text())
    assert record.pop("action_done") == ["0:2"]
    (config.out / SETTINGS).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"another version of giza \(action_done absent there"):
        label.run(config, quiet=True)


@torch.no_grad()
def test_masked_steps_teach_nothing() -> None:
    model, (present, future) = model_of(), pair(1)
    action, mask = torch.zeros(3, HORIZON, 2), torch.ones(3, HORIZON, dtype=torch.bool)
    mask[0, 2:] = False
    model.eval()
    changed = action.clone()
    changed[0, 2:] = 1e6
    assert float(model.loss(present, future, changed, mask)) == float(model.loss(present, future, action, mask))
    changed[0, 1] = 5
    assert float(model.loss(present, future, changed, mask)) > float(model.loss(present, future, action, mask))
    assert float(model.loss(present, future, action, torch.zeros_like(mask))) == 0.0


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    model, images = model_of(), pair(2)
    model.save_pretrained(tmp_path / "model")
    loaded = InverseDynamics.from_pretrained(tmp_path / "model")
    assert np.array_equal(loaded.predict(*images), model.predict(*images))
    assert loaded.facts.action_space.to_json() == model.facts.action_space.to_json()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no inverse dynamics model"):
        InverseDynamics.from_pretrained(tmp_path / "model")


def test_the_order_of_the_images_and_both_of_them_matter() -> None:
    model, (present, future) = model_of(), pair(3)
    straight = model.predict(present, future)
    assert not np.allclose(straight, model.predict(future, present), atol=1e-4)
    assert not np.allclose(straight, model.predict(present, present), atol=1e-4)


def test_actions_that_need_a_state_are_refused() -> None:
    chunks = np.zeros((9, HORIZON, 2), np.float32) + np.arange(9)[:, None, None]
    states, mask = np.zeros((9, 2), np.float32), np.ones((9, HORIZON), bool)
    codec = ActionSpace.fit(states, chunks, mask, parts=one_part(2, 2, "relative"))
    with pytest.raises(ValueError, match="absolute"):
        InverseDynamics(InverseDynamicsConfig(), Embodiment("block", codec, 0.1, ("top",)))


def test_training_counts_its_budget(folders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no budget"):
        InverseDynamicsTraining(steps=0)
    member = robot_of_label.samples_of(config_of(folders, tmp_path), lambda done, total: None)
    assert isinstance(member, EpisodeSamples)
    usable = np.flatnonzero(member.has_future)
    assert len(usable) == 9 * (90 - HORIZON)
    took = train_model(
        model_of(), member, usable, InverseDynamicsTraining(steps=3, batch_size=4), tmp_path, seed=0, quiet=True
    )
    assert (took["steps"], took["pairs"]) == (3, len(usable))
