"""`giza label`: an inverse dynamics model, trained on a robot's episodes, labels a corpus without actions with pseudo-actions;
or tracks do."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes

from corpora.episodes.episode import ALL_EPISODES, EpisodeSelection
from corpora.episodes.modality import read_modality
from corpora.held_out import HELD_OUT, hold_out_episodes
from corpora.simulation.episode import EXPERT_ACTIONS
from corpora.store.files import read_json, write_json
from corpora.store.inputs import READ
from jobs.cli import parse
from jobs.console import print_ending
from jobs.training.budget import check_budget, with_budget

if TYPE_CHECKING:
    from corpora.clips.corpus import Corpus
    from corpora.mixture.episode_samples import EpisodeSamples
    from jobs.labelling.labeller import Labeller, Maker
    from vla.embodiment import Embodiment
    from vla.models.inverse_dynamics import InverseDynamics

log = logging.getLogger(__name__)

TRACK_FIELDS = ("tracks", "robot_tracks", "near", "near_demos", "unknown")
"""Fields that say nothing without --tracks."""
MODEL = "_model"
"""In --out, beside the labels: by a name that readers of Parquet folders pass by."""
MEASURED = "measured.json"
_FIT_CHUNKS = 20_000


@dataclass(frozen=True)
class LabelConfig:
    """Train an inverse dynamics model on a robot's episodes, and label every frame of a corpus' clips with it; or, with --tracks,
    learn which actions go with a motion of the tool, and label the motions of the tracks."""

    robot: Path = field(metadata=READ)
    """LeRobot dataset with actions."""
    embodiment: str
    """The policy's slot whose actions these are, for instance franka."""
    corpus: Path = field(metadata=READ)
    """Folder of giza ingest that is labelled."""
    out: Path
    """Folder of the model and the labels; the same command again resumes."""
    tracks: Path | None = field(default=None, metadata=READ)
    """Label by these tracks of the corpus (OUT/tracks of giza crosspaint) instead: their positions are in the robot's space."""
    robot_tracks: Path | None = field(default=None, metadata=READ)
    """With --tracks: folder of an npz file for each of the robot's episodes, as giza simulate --tracks writes it."""
    near: Path | None = field(default=None, metadata=READ)
    """With --tracks: a dataset of the same robot that shows the clips' own tasks, beside `robot`, its files among --robot-tracks. Where
    a motion is too small to tell, the label is what the robot did in the same task where its tool was and moved likewise."""
    near_demos: int = 0
    """Of `near`, the first so many successful episodes of each task; 0: all."""
    unknown: tuple[str, ...] = ("gripper",)
    """With --tracks: words in the names of the action's dimensions that a motion does not tell; they are masked."""
    steps: int | None = None
    """Optimiser steps of the model; default 2000, some five minutes on two cores."""
    minutes: float | None = None
    """Wall-clock minutes after which the training stops early."""
    camera: str = ""
    """The robot's camera that the model sees; default: the first of its cameras. Take the one that is most like the clips'."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_EPISODES
    """Of the robot; state and action as the pyramid file has them. Where no action is named, it is of giza simulate's data the
    action done instead of the expert's."""
    normalisation: Literal["min_max", "mean_std", "q01_q99"] = "q01_q99"
    """Of states and actions, as the pyramid file has it: the policy takes over this codec."""
    held_share: float = 0.1
    """Share of the robot's episodes that errors are measured on."""
    horizon: int = 16
    """Steps of a chunk, at least the policy's; the model sees images, or a motion, this many steps apart."""
    image_size: int = 84
    """Pixels; the policy's size spares a second decoding."""
    batch_size: int = 64
    """Pairs of images a training step."""
    lr: float = 1e-3
    """Peak learning rate."""
    channels: tuple[int, ...] = field(default=(32, 64, 128, 128))
    """Of the model's convolutions."""
    part_frames: int = 4096
    """Frames of a Parquet part, which is what a kill can cost."""
    cache: Path | None = None
    """Folder for decoded images; default GIZA_CACHE, else the user's cache."""
    seed: int = 0
    """Of weights, order, crops and the held-out episodes."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_share < 1:
            raise ValueError(f"--held-share {self.held_share}: within 0 and 1, e.g. 0.1")
        if self.selection.keep_idle:
            raise ValueError("--keep-idle is of a policy's training: labels are learned from every row; leave it out")
        check_budget(self.steps, self.minutes)
        if (self.tracks is None) != (self.robot_tracks is None):
            raise ValueError(
                "--tracks and --robot-tracks go together: the corpus' tracks, and those of the robot's episodes"
            )
        if self.near is not None and self.tracks is None:
            raise ValueError(f"--near {self.near}: is of labels by --tracks; give these too, or leave it out")
        if self.near_demos and self.near is None:
            raise ValueError(f"--near-demos {self.near_demos}: of --near, which is not given")
        if self.tracks is not None and (self.steps is not None or self.minutes is not None):
            raise ValueError("--steps, --minutes: with --tracks nothing is trained step by step; leave them out")


def run(config: LabelConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains (or resumes), labels what is not labelled yet, and returns the summary (_label.json).

    Raises ValueError for a robot without actions, a corpus whose clips are cropped or shorter than the horizon, tracks that do not fit or
    know no position, and an `out` that holds something else or is being written to.
    """
    from corpora.agent.tracks import Tracks
    from corpora.clips.corpus import Corpus
    from corpora.clips.parts import SETTINGS
    from corpora.episodes.contents import contents_fingerprint
    from corpora.mixture.pseudo_actions import SUMMARY
    from corpora.store.run import Run
    from jobs.labelling.tracks import FORMAT as TRACK_LABELS

    corpus = Corpus(config.corpus)
    corpus.expect_clips()
    out = config.out.expanduser().absolute()
    settings = dataclasses.asdict(config)
    for moved in ("out", "cache", *(() if config.tracks else TRACK_FIELDS)):
        del settings[moved]
    settings |= settings.pop("selection")
    settings["action_done"] = list(action_done(config)) or None  # labels of earlier versions are of the expert's
    settings["corpus_identity"] = corpus.identity
    settings["robot_contents"] = contents_fingerprint(config.robot)
    if config.tracks:
        settings["tracks_identity"] = Tracks(config.tracks, corpus).identity
        settings["near_contents"] = contents_fingerprint(config.near) if config.near else None
    formats = {"held_out": HELD_OUT, "track_labels": TRACK_LABELS if config.tracks else None}
    run = Run(out, settings, summary=SUMMARY, record=SETTINGS, formats=formats)
    if (done := run.finished) is not None:
        return done
    make = (_by_tracks if config.tracks else _by_images)(config, corpus, out / MODEL, quiet)
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
    from jobs.progress import bar
    from vla.models.inverse_dynamics import CONFIG, InverseDynamics, saved_hash

    if corpus.squared_by == "crop":
        raise ValueError(
            f"corpus '{config.corpus}': its clips are the middle squares of their videos (--fit crop), and the model would see "
            "the robot's whole images, stretched to a square; giza ingest the videos with --fit stretch"
        )
    measured = read_json(folder / MEASURED) if (folder / CONFIG).is_file() else None
    robot = None if measured else _split(config, quiet)
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
    from jobs.labelling.tracks import TrackLabeller
    from jobs.progress import bar

    assert config.tracks is not None and config.robot_tracks is not None
    tracks = Tracks(config.tracks, corpus)
    samples, train, held = _split(config, quiet)
    facts = _facts(config, samples, train)
    near = None
    if config.near is not None:
        chosen = dataclasses.replace(config.selection, episodes="", demos=config.near_demos)
        with bar("decoding the demonstrations", quiet=quiet) as tell:
            near = _robot(dataclasses.replace(config, robot=config.near, selection=chosen), tell)
    labeller, measured = TrackLabeller.fitted(
        facts, (samples, train, held), config.robot_tracks.expanduser(), config.unknown, corpus, tracks, near
    )

    def make() -> tuple[Labeller, dict[str, Any]]:
        labeller.save(folder)
        return labeller, measured

    return make


def _split(config: LabelConfig, quiet: bool) -> tuple[EpisodeSamples, NDArray[np.int64], NDArray[np.int64]]:
    """The robot's samples, and which of them are trained on and held out. Raises ValueError where there are none."""
    from jobs.progress import bar

    with bar("decoding the robot's episodes", quiet=quiet) as tell:
        samples = _robot(config, tell)
    usable = np.flatnonzero(samples.has_future)
    groups = [samples.groups[index] for index in usable.tolist()]
    seen = [episode for episode in samples.episodes.episodes if episode.group in set(groups)]
    out = hold_out_episodes(seen, config.held_share, config.seed, title=f"robot '{config.robot}'")
    held = np.isin(groups, sorted(out))
    if held.all():
        raise ValueError(
            f"robot '{config.robot}': no moment of its episodes has an image {config.horizon} steps later; give a "
            "shorter --horizon"
        )
    if not held.any():
        log.warning("robot '%s': nothing is held out, so the labels' error is not known", config.robot)
    return samples, usable[~held], usable[held]


def _trained(
    config: LabelConfig, folder: Path, robot: tuple[EpisodeSamples, NDArray[np.int64], NDArray[np.int64]], quiet: bool
) -> tuple[InverseDynamics, dict[str, Any]]:
    """The model, and training and held-out errors as measured.json has them."""
    import torch

    from corpora.store.provenance import provenance
    from jobs.labelling.inverse_dynamics import InverseDynamicsTraining, held_out_error, train_model
    from vla.models.config import InverseDynamicsConfig
    from vla.models.inverse_dynamics import InverseDynamics

    samples, train, out = robot
    torch.manual_seed(config.seed)
    sizes = InverseDynamicsConfig(image_size=config.image_size, horizon=config.horizon, channels=config.channels)
    model = InverseDynamics(sizes, _facts(config, samples, train)).to("cuda" if torch.cuda.is_available() else "cpu")
    training = with_budget(
        InverseDynamicsTraining(batch_size=config.batch_size, lr=config.lr), config.steps, config.minutes
    )
    took = train_model(model, samples, train, training, folder, seed=config.seed, quiet=quiet)
    measured = {"training": took, "held_out": held_out_error(model, samples, train, out, config.seed)}
    write_json(folder / MEASURED, measured | {"provenance": provenance()})
    model.save_pretrained(folder)
    return model, measured


def action_done(config: LabelConfig) -> tuple[str, ...]:
    """Dimensions of `action` to learn from, where a policy would read the expert's own; () where that is what was done.

    Of giza simulate's data meta/modality.json names `expert.action`, which is what is to be imitated. No image shows it:
    between two images lies what the robot did, noise included, and that is the column `action`.
    """
    info = config.robot.expanduser() / "meta" / "info.json"
    if config.selection.action or not info.is_file():
        return ()
    try:
        features = json.loads(info.read_text("utf-8"))["features"]
        parts = read_modality(config.robot.expanduser(), features).action
    except (ValueError, KeyError):  # reading the episodes says what is wrong
        return ()
    if "action" not in features or not parts or any(part.column not in EXPERT_ACTIONS for part in parts):
        return ()
    return tuple(f"{part.start}:{part.end}" for part in parts)


def _robot(config: LabelConfig, progress: Callable[[int, int], None]) -> EpisodeSamples:
    """Samples of the robot's episodes, the future a horizon later."""
    from corpora.episodes.frames import open_episode_frames
    from corpora.episodes.opening import open_episodes
    from corpora.mixture.episode_samples import EpisodeSamples, EpisodesAt
    from corpora.mixture.spec import DatasetSpec
    from corpora.mixture.views import Window

    action = config.selection.action or action_done(config)
    cameras = (config.camera,) if config.camera else config.selection.cameras
    episodes = open_episodes(config.robot, dataclasses.replace(config.selection, cameras=cameras, action=action))
    if episodes.action is None:
        raise ValueError(f"there is nothing to learn from robot '{config.robot}': {episodes.no_action}")
    episodes = episodes.seen_by(episodes.cameras[:1])
    if action != config.selection.action:  # labels lie in the places of the policy's own, and take over their names
        episodes.action_names = tuple(dim for part in episodes.modality.action for dim in part.dims)
    frames = open_episode_frames(episodes, config.image_size, cache=config.cache, progress=progress)
    for said in filter(None, (episodes.left_out, frames.lacking)):
        log.warning("robot '%s': %s", config.robot, said)
    return EpisodeSamples(
        DatasetSpec(config.robot.name, "robot", EpisodesAt(config.robot), embodiment=config.embodiment),
        episodes,
        frames,
        Window(config.horizon, future_s=config.horizon / episodes.fps),
    )


def robot_facts(config: LabelConfig) -> Embodiment:
    """The robot as a model trained on all of its chosen episodes knows it. Raises ValueError as `run`."""
    samples = _robot(config, lambda done, total: None)
    return _facts(config, samples, np.arange(len(samples)))


def _facts(config: LabelConfig, samples: EpisodeSamples, train: NDArray[np.int64]) -> Embodiment:
    """The robot as the policy is to know it, fitted on what the model is trained on."""
    from vla.actions.layout import one_part
    from vla.actions.space import ActionSpace
    from vla.embodiment import Embodiment

    some = np.sort(np.random.default_rng(config.seed).permutation(train)[:_FIT_CHUNKS])
    numbers = samples.numbers(some.tolist())
    facts, frames = samples.embodiment(), samples.frames(train.tolist())
    assert facts is not None
    names = facts.state_names, facts.action_names
    space = ActionSpace.fit(
        numbers.states,
        numbers.chunks,
        numbers.mask,
        parts=one_part(len(names[0]), len(names[1]), "absolute", config.normalisation, names=names),
        frames=(frames.states, frames.actions),
        moved=frames.moved,
        state_normalisation=config.normalisation,
        state_names=names[0],
        action_names=names[1],
    )
    return Embodiment(config.embodiment, space, samples.step_s, tuple(samples.cameras), views=facts.views)


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
