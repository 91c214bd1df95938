"""LeRobot datasets: an episode seen by a camera is one source, its states and actions the ground truth."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from corpora.episodes.image_columns import REMEDY
from corpora.episodes.lerobot import DAMAGE, IS_DEPTH, DatasetFault, EpisodePlace, LeRobotDataset
from corpora.episodes.lerobot_layout import why_missing
from corpora.episodes.modality import COLUMNS, default_parts, measured
from corpora.episodes.truth import TruthRef
from corpora.sources.source import UNREACHABLE, File, Source, SourceDefaults, SourceKind, register
from corpora.store.files import machine_trouble
from corpora.store.told import warn_once
from corpora.video.probe import describe

log = logging.getLogger(__name__)


@register
class LeRobot(SourceKind):
    """What is wrong with the dataset itself (unreadable metadata, files that are missing) is a source with a fault."""

    rank = 50

    def recognises(self, path: Path) -> bool:
        return LeRobotDataset.exists(path)

    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source]:
        """Episode after episode, each by all of its cameras. Raises ValueError for a camera that the dataset lacks."""
        info = File.at(path / "meta" / "info.json")

        def fault(suffix: str, reason: str, detail: str) -> Source:
            title = f"{name}/{suffix}" if suffix else name
            media = File(str(path), info.stamp)
            return Source(name=title, group=name, media=media, fault=reason, fault_detail=detail)

        try:
            dataset = LeRobotDataset.open(path, name)
        except DatasetFault as error:
            yield fault("", error.reason, str(error))
            return
        except OSError as error:
            yield fault("", UNREACHABLE, f"meta: {describe(error)}")
            return
        chosen = _choose(dataset, defaults.cameras)
        if not chosen:
            if dataset.images:
                yield fault("", "images_in_tables", REMEDY.format(root=path))
            else:
                yield fault("", "no_video_stream", "the dataset has no feature of type video")
            return
        # What the dataset suggests gives way to what was asked for, unlike the lines of a list.
        acts = default_parts(dataset.features, "action")
        columns = measured(dataset.features)
        if not (acts or defaults.tier) and set(columns) - set(COLUMNS["state"]):
            warn_once(
                log,
                f"dataset '{dataset.name}': none of its columns is called {' or '.join(COLUMNS['action'])}, so its tier is human; "
                f"it has {list(columns)}. Where it is a robot's, say so: --tier robot",
            )
        tier = defaults.tier or ("robot" if acts else "human")
        embodiment = defaults.embodiment or dataset.robot_type
        present = []
        fps = _fps(dataset)
        try:
            for camera in chosen:
                if not defaults.cameras and dataset.is_depth(camera):
                    yield fault(camera, "depth_map", f"its videos are {IS_DEPTH}")
                elif (view := dataset.view(camera)) is not None:
                    yield fault(
                        camera, "painted", f"its pictures are {view}, and clips would not say so: ingest the dataset that it was "
                        "made of, and paint the corpus"
                    )  # fmt: skip
                elif dataset.holds(camera):
                    present.append(camera)
                else:
                    yield fault(camera, "missing_file", f"the dataset names this camera: {dataset.lacks(camera)}")
            listed, damaged = 0, list[str]()
            for place in dataset.episodes(present, damaged):
                listed += 1
                for camera, why in place.lost.items():
                    yield fault(f"episode_{place.index:06d}/{camera}", "unreadable", why)
                if place.data is not None:
                    yield from _sources(
                        dataset, place, TruthRef(str(place.data), place.index, fps, place.length), tier, embodiment
                    )
            for number, why in enumerate(damaged):
                yield fault(f"meta{number or ''}", "unreadable", why)
            if dataset.unlisted(listed):
                yield fault("", "missing_file", dataset.unlisted(listed))
        except DAMAGE as error:
            reason = UNREACHABLE if machine_trouble(error) else "unreadable"
            yield fault("", reason, f"meta: {type(error).__name__}: {error}")


def _choose(dataset: LeRobotDataset, wanted: Sequence[str]) -> list[str]:
    """The cameras asked for, by full name ("observation.images.top") or last part ("top"); all where none is named."""
    known = dataset.cameras
    if not wanted:
        return list(known)
    chosen = [camera for camera in known if camera in wanted or camera.rpartition(".")[2] in wanted]
    if not chosen:
        raise ValueError(f"cameras {list(wanted)}: dataset '{dataset.name}' has none of them; it has {list(known)}")
    return chosen


def _fps(dataset: LeRobotDataset) -> float:
    """0 where the dataset does not say: its videos are of use without."""
    try:
        return dataset.fps
    except DatasetFault:
        return 0.0


def _sources(
    dataset: LeRobotDataset, place: EpisodePlace, truth: TruthRef, tier: str, embodiment: str
) -> Iterator[Source]:
    group = dataset.group(place.index)
    for camera, span in place.videos.items():
        missing = not span.path.exists()
        yield Source(
            name=f"{group}/{camera}",
            group=group,
            media=File.at(span.path),
            selector=f"{camera}/{place.index}",
            span_s=(span.from_s, span.to_s),
            origin_s=span.from_s,
            text=place.text,
            tier=tier,
            embodiment=embodiment,
            truth=truth,
            fault="missing_file" if missing else "",
            fault_detail=why_missing(dataset.root, span.path) if missing else "",
        )
