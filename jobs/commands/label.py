"""`giza label`: an inverse dynamics model, trained on a robot's episodes, labels a corpus without actions with pseudo-actions;
or tracks do."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.held_out import HELD_OUT
from corpora.store.files import read_json, write_json
from jobs.cli import parse
from jobs.console import print_ending
from jobs.labelling.config import HAND_FIELDS, TRACK_FIELDS, LabelConfig
from jobs.training.budget import with_budget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corpora.clips.corpus import Corpus
    from corpora.mixture.episode_samples import EpisodeSamples
    from jobs.labelling.labeller import Labeller, Maker
    from vla.models.inverse_dynamics import InverseDynamics

log = logging.getLogger(__name__)

MODEL = "_model"
"""In --out, beside the labels: by a name that readers of Parquet folders pass by."""
MEASURED = "measured.json"


def run(config: LabelConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes), labels what is not labelled yet, and returns the summary (_label.json).

    Raises ValueError for a robot without actions, a corpus whose clips are cropped or shorter than the horizon, tracks that do not fit or
    know no position, and an `out` that holds something else or is being written to.
    """
    from corpora.agent.tracks import Tracks
    from corpora.clips.corpus import Corpus
    from corpora.clips.parts import SETTINGS
    from corpora.episodes.contents import contents_fingerprint
    from corpora.episodes.parts import read_parts
    from corpora.mixture.pseudo_actions import SUMMARY
    from corpora.store.run import Run
    from jobs.labelling.hands import FORMAT as HAND_LABELS
    from jobs.labelling.robot import action_done
    from jobs.labelling.tracks import FORMAT as TRACK_LABELS

    corpus = Corpus(config.corpus)
    corpus.expect_clips()
    out = config.out.expanduser().absolute()
    settings = dataclasses.asdict(config)
    unsaid = (*(() if config.tracks else TRACK_FIELDS), *(() if config.hand else HAND_FIELDS))
    for moved in ("out", "cache", *unsaid):
        del settings[moved]
    settings |= settings.pop("selection")
    settings["action_done"] = list(action_done(config)) or None  # labels of earlier versions are of the expert's
    settings["corpus_identity"] = corpus.identity
    settings["robot_contents"] = contents_fingerprint(config.robot)
    if config.tracks:
        settings["tracks_identity"] = Tracks(config.tracks, corpus).identity
        settings["near_contents"] = contents_fingerprint(config.near) if config.near else None
    if config.action_parts:
        settings["action_parts"] = [dataclasses.asdict(part) for part in read_parts(config.action_parts)]
    formats = {
        "held_out": HELD_OUT,
        "track_labels": TRACK_LABELS if config.robot_tracks else None,
        "hand_labels": HAND_LABELS if config.hand else None,
    }
    run = Run(out, settings, summary=SUMMARY, record=SETTINGS, formats=formats)
    if (done := run.finished) is not None:
        return done
    by = _by_hands if config.hand else _by_tracks if config.tracks else _by_images
    make = by(config, corpus, out / MODEL, quiet)
    with run.claim():
        labeller, measured = make()
        labelled = _label(config, corpus, labeller, out, quiet)
        return run.finish(
            {
                "embodiment": config.embodiment,
                "by": labeller.kind,
                "unknown": list(labeller.unknown),
                "horizon": config.horizon,
                "step_s": labeller.facts.step_s,
                "action_names": list(labeller.facts.action_space.action_names),
                "cameras": list(labeller.facts.cameras),
                "codec": labeller.facts.action_space.to_json(),
                "corpus": str(config.corpus),
                "corpus_identity": corpus.identity,
                "robot": str(config.robot),
                "seed": config.seed,
                **labelled,
                **measured,
            }
        )


def _by_images(config: LabelConfig, corpus: Corpus, folder: Path, quiet: bool) -> Maker:
    """What trains the model in `folder`, or reads it there. Raises ValueError for what can be refused before."""
    from corpora.clips.frames import open_clip_frames
    from corpora.video.view import view_told
    from jobs.labelling.inverse_dynamics import ImageLabeller
    from jobs.labelling.robot import split_robot
    from jobs.progress import bar
    from vla.models.inverse_dynamics import CONFIG, InverseDynamics, saved_hash

    if corpus.squared_by == "crop":
        raise ValueError(
            f"corpus '{config.corpus}': its clips are the middle squares of their videos (--fit crop), and the model would see "
            "the robot's whole images, stretched to a square; giza ingest the videos with --fit stretch"
        )
    measured = read_json(folder / MEASURED) if (folder / CONFIG).is_file() else None
    robot = None if measured else split_robot(config, quiet)
    with bar("decoding the clips", quiet=quiet) as tell:
        clips = open_clip_frames(corpus, config.image_size, cache=config.cache, progress=tell)
    if clips.table.lacking:
        log.warning("corpus '%s': %s", config.corpus, clips.table.lacking)
    if robot is not None and (seen := robot[0].episodes.views.get(robot[0].cameras[0])) != clips.view:
        raise ValueError(
            f"the pictures of robot '{config.robot}' are {view_told(seen)}, those of corpus '{config.corpus}' {view_told(clips.view)}: "
            "what is learned from the one is read off the other; paint them alike with giza crosspaint"
        )

    def make() -> tuple[Labeller, dict[str, Any]]:
        if robot is not None:
            model, told = _trained(config, folder, robot, quiet)
        else:
            assert measured is not None
            model, told = InverseDynamics.from_pretrained(folder), measured
        return ImageLabeller(model, clips, saved_hash(folder)), told

    return make


def _by_tracks(config: LabelConfig, corpus: Corpus, folder: Path, quiet: bool) -> Maker:
    """What writes the fitted map to `folder`. Raises ValueError as `TrackLabeller.fitted`, and for tracks of other clips."""
    from corpora.agent.tracks import Tracks
    from jobs.labelling.robot import facts_of, samples_of, split_robot
    from jobs.labelling.tracks import TrackLabeller
    from jobs.progress import bar

    assert config.tracks is not None and config.robot_tracks is not None
    tracks = Tracks(config.tracks, corpus)
    samples, train, held = split_robot(config, quiet)
    facts = facts_of(config, samples, train)
    near = None
    if config.near is not None:
        chosen = dataclasses.replace(config.selection, episodes="", demos=config.near_demos)
        with bar("decoding the demonstrations", quiet=quiet) as tell:
            near = samples_of(dataclasses.replace(config, robot=config.near, selection=chosen), tell)
    labeller, measured = TrackLabeller.fitted(
        facts, (samples, train, held), config.robot_tracks.expanduser(), config.unknown, corpus, tracks, near
    )

    def make() -> tuple[Labeller, dict[str, Any]]:
        labeller.save(folder)
        return labeller, measured

    return make


def _by_hands(config: LabelConfig, corpus: Corpus, folder: Path, quiet: bool) -> Maker:
    """What writes to `folder` how hands are read. Raises ValueError as `HandLabeller.fitted`, and for tracks of other clips."""
    from corpora.agent.tracks import Tracks
    from jobs.labelling.hands import HandLabeller
    from jobs.labelling.robot import facts_of, split_robot

    assert config.tracks is not None
    tracks = Tracks(config.tracks, corpus)
    samples, train, _ = split_robot(config, quiet)
    labeller, measured = HandLabeller.fitted(
        facts_of(config, samples, train),
        config.horizon,
        corpus,
        tracks,
        wrist=config.wrist,
        opening=config.opening,
        opens=config.opens,
    )

    def make() -> tuple[Labeller, dict[str, Any]]:
        labeller.save(folder)
        return labeller, measured

    return make


def _trained(
    config: LabelConfig, folder: Path, robot: tuple[EpisodeSamples, NDArray[np.int64], NDArray[np.int64]], quiet: bool
) -> tuple[InverseDynamics, dict[str, Any]]:
    """The model, and training and held-out errors as measured.json has them."""
    import torch

    from corpora.store.provenance import provenance
    from jobs.labelling.inverse_dynamics import InverseDynamicsTraining, held_out_error, train_model
    from jobs.labelling.robot import facts_of
    from vla.models.config import InverseDynamicsConfig
    from vla.models.inverse_dynamics import InverseDynamics

    samples, train, out = robot
    torch.manual_seed(config.seed)
    sizes = InverseDynamicsConfig(image_size=config.image_size, horizon=config.horizon, channels=config.channels)
    model = InverseDynamics(sizes, facts_of(config, samples, train)).to("cuda" if torch.cuda.is_available() else "cpu")
    training = with_budget(
        InverseDynamicsTraining(batch_size=config.batch_size, lr=config.lr), config.steps, config.minutes
    )
    took = train_model(model, samples, train, training, folder, seed=config.seed, quiet=quiet)
    measured = {"training": took, "held_out": held_out_error(model, samples, train, out, config.seed)}
    write_json(folder / MEASURED, measured | {"provenance": provenance()})
    model.save_pretrained(folder)
    return model, measured


def _label(config: LabelConfig, corpus: Corpus, labeller: Labeller, out: Path, quiet: bool) -> dict[str, Any]:
    """Writes the parts that are missing; what all of them hold."""
    from corpora.clips.parts import plan_parts
    from corpora.mixture.pseudo_actions import labels_on_disk, write_labels
    from jobs.progress import bar

    plan = plan_parts(corpus.clips, config.part_frames)
    rows = labelled = now = 0
    with bar("labelling", quiet=quiet) as tell:
        for part in plan:
            key = {"model_hash": labeller.identity, "corpus": corpus.identity, "clips": part.digest}
            count = labels_on_disk(out / part.name, key)
            if count is None:
                found = [chunks for row in part.rows if (chunks := labeller.chunks(row.clip_id))]
                write_labels(out / part.name, found, key)
                count = sum(len(clip.t_s) for clip in found)
                now += count
            rows += count
            labelled += len(part.rows)
            tell(labelled, len(corpus.clips), f"labelling {rows} frames")
    if not rows:
        raise ValueError(
            f"corpus '{config.corpus}': no clip shows anything {config.horizon * labeller.facts.step_s:.2f} s after a "
            "frame; give a shorter --horizon"
        )
    return {
        "rows": rows,
        "rows_this_run": now,
        "clips": labelled,
        "parts": len(plan),
        "model_hash": labeller.identity,
    }


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    config = parse(LabelConfig, argv, job="label")
    summary = run(config)
    from jobs.labelling.table import label_table  # after the flags: it brings scipy

    totals = f"{summary['rows']} chunks of {summary['horizon']} steps, model {summary['model_hash']}"
    print_ending(label_table(summary), summary, config.out, totals)
