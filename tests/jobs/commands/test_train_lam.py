"""Training: held-out videos, few labels, what a killed run ends in, faults that name themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora.clips.corpus import Corpus
from corpora.clips.several import open_corpora
from jobs.commands import train_lam
from jobs.training.budget import with_budget
from lapa.model.checkpoint import load_lam, save_lam
from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.config import LabelSpec
from lapa.pairs.known_motion import SeenLabels
from lapa.pairs.pair import STABILISED
from lapa.recipes import RECIPES
from lapa.training import LamTraining, target_loss
from lapa.training_config import TrainingConfig
from lapa.training_data import TrainingData
from tests.builders.corpora import write_corpus
from tests.builders.lam import TINY, first_stage, lam_settings, tiny_recipe


def with_pair(**changes: object) -> LamConfig:
    return dataclasses.replace(TINY, pair=dataclasses.replace(TINY.pair, **changes))  # type: ignore[arg-type]


ON_A_CPU = {"small", "debug"}


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_trained_in_the_precision_of_its_latents_and_its_loss_falls(
    name: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: in bfloat16 the latents of training were up to 5% off those that are extracted."""
    recipe = tiny_recipe(name, tmp_path)
    training = dataclasses.replace(recipe.training, steps=30, lr=3e-3, val_every_steps=30)
    losses, targets, seen = LamTraining.losses, [], []

    def watched(self, batch):  # type: ignore[no-untyped-def]
        found = losses(self, batch)
        if self.training:
            copy = target_loss(batch.first, batch.second, batch.valid if self.config.pixels else None, self.config)
            targets.append(float(found[0]["target"].detach() / copy))
        else:
            seen.append((batch, found[1]))
        return found

    monkeypatch.setattr(LamTraining, "losses", watched)
    first = first_stage(recipe.model, tiny_corpus, tmp_path)
    targets.clear(), seen.clear()
    settings = lam_settings(
        tiny_corpus, tmp_path / "run", recipe=name, model=recipe.model, training=training, init_from=first
    )
    train_lam.run(settings, quiet=True)
    # the residual ones begin at a copy of the first frame, DreamDojo's at grey, the others at nothing
    near = recipe.model.residual or recipe.model.condition == "broadcast"
    assert np.mean(targets[-5:]) < (1.0 if near else 0.5) * np.mean(targets[:2])
    if recipe.model.needs_text:
        return  # whose latents are not extracted
    model, (batch, latent) = load_lam(tmp_path / "run"), seen[-1]
    with torch.no_grad():
        extracted = model.encode(batch).latent
    error = (latent - extracted).pow(2).mean().sqrt() / (extracted - extracted.mean(0)).pow(2).mean().sqrt()
    assert error < (1e-5 if name in ON_A_CPU else 0.03)


@pytest.mark.parametrize("name", RECIPES)
def test_killed_and_resumed_it_ends_where_an_uninterrupted_run_ends(
    name: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_recipe(name, tmp_path).model
    common = {"steps": 6, "model": model, "init_from": first_stage(model, tiny_corpus, tmp_path)}
    straight = train_lam.run(lam_settings(tiny_corpus, tmp_path / "straight", **common), quiet=True)
    original = LamTraining.on_train_batch_end

    def killed(self, outputs, batch, index) -> None:  # type: ignore[no-untyped-def]
        original(self, outputs, batch, index)
        if self.global_step == 5:
            raise RuntimeError("killed")

    monkeypatch.setattr(LamTraining, "on_train_batch_end", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_lam.run(lam_settings(tiny_corpus, tmp_path / "resumed", **common), quiet=True)
    assert not (tmp_path / "resumed" / "model.safetensors").exists()
    monkeypatch.setattr(LamTraining, "on_train_batch_end", original)
    resumed = train_lam.run(lam_settings(tiny_corpus, tmp_path / "resumed", **common), quiet=True)
    assert resumed["steps"] == straight["steps"] == 6
    a = load_lam(tmp_path / "straight").state_dict()
    b = load_lam(tmp_path / "resumed").state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("cache_gb", [20.0, 0.0], ids=["stored", "streamed"])
def test_training_sees_no_held_out_video_and_validation_no_other(
    cache_gb: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held-out videos are black, and no other is."""
    corpus = write_corpus(tmp_path / "corpus", [0, 1, 2, 4, 5, 6], black=(1, 4))
    black: dict[str, list[bool]] = {"training": [], "validation": []}
    losses = LamTraining.losses

    def watched(self, batch):  # type: ignore[no-untyped-def]
        black["training" if self.training else "validation"] += [bool(image.std() < 0.01) for image in batch.first]
        return losses(self, batch)

    monkeypatch.setattr(LamTraining, "losses", watched)
    settings = lam_settings(corpus, tmp_path / "run", holdout=("video1", "video4"))
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, cache_gb=cache_gb))
    summary = train_lam.run(settings, quiet=True)
    assert summary["streamed"] == (cache_gb == 0)
    assert len(black["training"]) == 40 and not any(black["training"])
    assert len(black["validation"]) > 10 and all(black["validation"])
    assert summary["held_out_groups"] == ["video1", "video4"]
    assert summary["train_groups"] == ["video0", "video2", "video5", "video6"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["held_out_groups"] == summary["held_out_groups"]
    assert {"val/target_loss", "val/copy_loss", "val/perplexity_higher_is_better"} <= set(summary["validation"])


def test_few_labels_train_a_head_on_their_share(tiny_corpus: Path, tmp_path: Path) -> None:
    labels = LabelSpec("observation.state", (0, 1, 2), 0.5)
    summary = train_lam.run(lam_settings(tiny_corpus, tmp_path, labels=labels, steps=4), quiet=True)
    assert 0 < summary["labelled_clips"] < summary["train_clips"]
    assert load_lam(tmp_path).action_head.out_features == 3  # type: ignore[union-attr]


def test_several_corpora_are_trained_on_as_one_and_labels_are_of_the_body_that_is_named(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    """Issue 16: the latent model trains on people's and the robot's video, and may take the robot's labels."""
    robot = write_corpus(tmp_path / "robot", range(20, 26), truth=True, embodiment="arm")
    labels = LabelSpec("observation.state", (0, 1, 2), 1.0, embodiment="arm")
    both = lam_settings((tiny_corpus, robot), tmp_path / "both", labels=labels)
    summary = train_lam.run(both, quiet=True)
    groups = {*summary["train_groups"], *summary["held_out_groups"]}
    assert groups == {row.group for folder in (tiny_corpus, robot) for row in Corpus(folder).clips}
    assert (
        0 < summary["labelled_clips"] == sum(group[5:] >= "20" for group in summary["train_groups"] if len(group) == 7)
    )
    assert train_lam.run(dataclasses.replace(both, corpus=(robot, tiny_corpus)), quiet=True)["already_finished"]
    with pytest.raises(ValueError, match="corpus_identity"):
        train_lam.run(dataclasses.replace(both, corpus=robot), quiet=True)
    wrong = dataclasses.replace(labels, embodiment="leg")
    with pytest.raises(ValueError, match="--labels.embodiment 'leg': none of 'arm', 'hand'"):
        train_lam.run(lam_settings((tiny_corpus, robot), tmp_path / "wrong", labels=wrong), quiet=True)


def test_labels_of_several_corpora_are_as_wide_as_those_of_the_body_that_is_named(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    robot = write_corpus(tmp_path / "robot", range(20, 26), truth=True, embodiment="arm")
    for folder, width in ((tiny_corpus, 3), (robot, 7)):
        summary = json.loads((folder / "ingest.json").read_text())
        copy = shutil.copytree(folder, tmp_path / f"of_{width}")
        (copy / "ingest.json").write_text(json.dumps(summary | {"truth_features": {"observation.state": width}}))
    corpus = open_corpora([tmp_path / "of_3", tmp_path / "of_7"])

    def label_dim(**labels: object) -> int:
        config = lam_settings(tmp_path, tmp_path, labels=LabelSpec("observation.state", **labels))  # type: ignore[arg-type]
        return train_lam._with_labels(config, corpus).label_dim

    assert label_dim(embodiment="arm") == 7 and label_dim(embodiment="hand") == 3 == label_dim(dims=(0, 1, 2))
    with pytest.raises(
        ValueError, match="not as many dimensions in every corpus .3 in '.*of_3', 7 in '.*--labels.dims"
    ):
        label_dim()
    with pytest.raises(ValueError, match="has dimensions 0 to 2"):
        label_dim(dims=(5,))


def test_labels_of_another_width_are_named_with_their_remedy(tiny_corpus: Path, tmp_path: Path) -> None:
    """Of two bodies in one corpus: the clip is whole, and another ingest would bring the same."""
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    summary = json.loads((corpus / "ingest.json").read_text())
    (corpus / "ingest.json").write_text(json.dumps(summary | {"truth_features": {"observation.state": 5}}))
    with pytest.raises(ValueError, match="^--labels.feature 'observation.state': has .* name dimensions") as told:
        train_lam.run(lam_settings(corpus, tmp_path / "out", labels=LabelSpec("observation.state")), quiet=True)
    assert "or one body with --labels.embodiment" in str(told.value)
    assert "ingest" not in str(told.value) and "damaged" not in str(told.value)


def test_no_label_of_a_held_out_video_is_seen(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L13: not by the loss, nor by the scale of the labels, nor in the count that is told."""
    labels = LabelSpec("observation.state", (0, 1, 2), 1.0)
    seen: list[SeenLabels] = []

    def trained(run, module, data, facts, logger, **how):  # type: ignore[no-untyped-def]
        seen.append(data.reader.labels)
        return facts

    monkeypatch.setattr(train_lam, "_train", trained)
    summary = train_lam.run(lam_settings(tiny_corpus, tmp_path / "run", labels=labels), quiet=True)
    held_out = {row.clip_id for row in Corpus(tiny_corpus).clips if row.group in summary["held_out_groups"]}
    assert held_out and not seen[0].clips & held_out
    assert summary["labelled_clips"] == summary["train_clips"] == len(seen[0].clips)


def test_labels_have_one_scale_whether_stored_or_streamed(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L5's twin: a streamed corpus had labels at no scale at all."""
    monkeypatch.delenv("GIZA_CACHE", raising=False)
    read = Corpus(tiny_corpus)
    labels = SeenLabels(LabelSpec("observation.state", (0, 1)), frozenset(row.clip_id for row in read.clips[:5]), 2)
    scales = [
        TrainingData(
            read,
            read.clips,
            [],
            TINY,
            TrainingConfig(steps=1, cache_gb=cache_gb),
            seed=0,
            labels=labels,
            featurise=None,
        ).label_scale()
        for cache_gb in (20.0, 0.0)
    ]
    assert scales[0] is not None and (scales[0] > 0.5).all()
    torch.testing.assert_close(scales[0], scales[1])


def test_a_run_folder_belongs_to_one_run(tiny_corpus: Path, tiny_lam: Path) -> None:
    summary = json.loads((tiny_lam / "run.json").read_text())
    weights = (tiny_lam / "model.safetensors").stat().st_mtime_ns
    again = train_lam.run(lam_settings(tiny_corpus, tiny_lam), quiet=True)
    assert again == {**summary, "already_finished": True}  # L6: it is not trained again
    assert (tiny_lam / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ValueError, match="holds a run with other settings \\(seed 0 there and 1 here\\)"):
        train_lam.run(lam_settings(tiny_corpus, tiny_lam, seed=1), quiet=True)


def test_a_run_belongs_to_the_weights_that_it_began_with(tiny_corpus: Path, tiny_lam: Path, tmp_path: Path) -> None:
    """V9's kind: the folder of --init-from may move, but not hold another model."""
    first = shutil.copytree(tiny_lam, tmp_path / "first")
    settings = lam_settings(tiny_corpus, tmp_path / "run", steps=1, init_from=first)
    train_lam.run(settings, quiet=True)
    moved = dataclasses.replace(settings, init_from=first.rename(tmp_path / "moved"))
    assert train_lam.run(moved, quiet=True)["already_finished"]
    save_lam(LatentActionModel(TINY), tmp_path / "moved")
    with pytest.raises(ValueError, match=r"other settings \(init_from_hash"):
        train_lam.run(moved, quiet=True)


def test_an_interrupted_run_of_other_stabilised_pictures_is_not_resumed(tiny_corpus: Path, tmp_path: Path) -> None:
    model = with_pair(camera_compensation=True)
    train_lam.run(lam_settings(tiny_corpus, tmp_path, steps=1, model=model), quiet=True)
    record = json.loads((tmp_path / "train.json").read_text())
    for stabilised, was in ((1, "1"), (None, "absent")):
        record["stabilised"] = stabilised
        if stabilised is None:
            del record["stabilised"]
        (tmp_path / "train.json").write_text(json.dumps(record))
        with pytest.raises(
            ValueError, match=rf"another version of giza \(stabilised {was} there and {STABILISED} here\)"
        ):
            train_lam.run(lam_settings(tiny_corpus, tmp_path, steps=1, model=model), quiet=True)
    still = lam_settings(tiny_corpus, tmp_path / "still", steps=1, model=with_pair(camera_compensation=False))
    train_lam.run(still, quiet=True)
    record = json.loads((tmp_path / "still" / "train.json").read_text())
    assert record.pop("stabilised") is None
    (tmp_path / "still" / "train.json").write_text(json.dumps(record))  # as earlier versions wrote it
    assert train_lam.run(still, quiet=True)["steps"] == 1


def test_errors_name_value_rule_and_remedy(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than the corpus' 48 px"):
        train_lam.run(lam_settings(tiny_corpus, tmp_path, model=with_pair(image_size=256)))
    with pytest.raises(ValueError, match="Did you mean 'observation.state'"):
        train_lam.run(lam_settings(tiny_corpus, tmp_path, labels=LabelSpec("observation.stat")))
    with pytest.raises(ValueError, match="is not a corpus"):
        train_lam.run(lam_settings(tmp_path, tmp_path))
    with pytest.raises(ValueError, match="Did you mean 'small'"):
        train_lam.main(["--corpus", "x", "--out", "y", "--recipe", "smal"])
    with pytest.raises(ValueError, match="no budget"):
        TrainingConfig()


def test_the_command_line_overrides_a_recipes_fields(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[train_lam.TrainLamConfig] = []
    monkeypatch.setattr(train_lam, "run", seen.append)
    train_lam.main(
        [
            "--recipe",
            "lapa",
            "--corpus",
            str(tmp_path),
            "--out",
            "o",
            "--model.quantiser.kind",
            "vq",
            "--model.pair.gap-s",
            "0.6",
            "1.0",
            "--steps",
            "7",
        ]
    )
    assert seen[0].model == dataclasses.replace(
        RECIPES["lapa"].model,
        pair=dataclasses.replace(RECIPES["lapa"].model.pair, gap_s=(0.6, 1.0)),
        quantiser=dataclasses.replace(RECIPES["lapa"].model.quantiser, kind="vq"),
    )
    training = with_budget(seen[0].training, seen[0].steps, seen[0].minutes)
    assert (training.steps, training.minutes, training.lr) == (7, 0, 1e-4)


def test_a_run_whose_batches_were_made_otherwise_is_refused(tiny_corpus: Path, tiny_lam: Path, tmp_path: Path) -> None:
    """Before, a batch was that of each device: going on would silently train on others."""
    out = Path(shutil.copytree(tiny_lam, tmp_path / "lam"))
    record = json.loads((out / "train.json").read_text())
    del record["batches"]
    (out / "train.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="begun by another version of giza .batches absent there"):
        train_lam.run(lam_settings(tiny_corpus, out), quiet=True)
