"""A robot's LeRobot dataset in which its agent is painted over, for policies that see people's video painted alike: the same
rows, episodes and files, of one camera another video at the same size and rate.

    painter = Painter(open_agent(PaintSettings(agent="dot"), 0), settings)
    paint_dataset(LeRobotDataset.open(root), "observation.images.head", tracks, painter, out, progress)
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.agent.painted_meta import tell_painted
from corpora.agent.painting import Painted, Painter
from corpora.agent.track import Progress, Track, Untracked
from corpora.agent.track_file import TrackFile
from corpora.episodes.lerobot import EpisodePlace, LeRobotDataset
from corpora.episodes.lerobot_stats import ImageStats, Stats
from corpora.episodes.pairing import pair
from corpora.store.files import digest_of, read_json, write_json, written_whole
from corpora.store.told import faults_told
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from corpora.video.probe import Unusable, VideoFacts, probe
from corpora.video.shown import Converter
from corpora.video.view import View

log = logging.getLogger(__name__)

PAINTING = "painting"
"""Folder of how each file was painted, episode by episode."""
FORMAT = 2
"""Raised when the same settings would give other bytes; in 1 the metadata did not say the view, and kept the statistics of the
old pictures."""
OWN = (PAINTING, "crosspaint.json", "crosspaint.html", "simulate.json", "README.md")
"""Of the root of a dataset: what tells how it was made, which is no longer true of its copy."""
_ENCODING = VideoEncoding(crf=16)


@dataclass(frozen=True)
class _Span:
    """Frames of a file that are an episode's."""

    episode: int
    frames: slice
    track: Track
    """[N, ...]."""


def one_camera(dataset: LeRobotDataset, wanted: str) -> str:
    """The camera that is painted: `wanted`, by its whole name or the last part of it, or the only one there is.

    Raises ValueError where that names none, or several, or one that is painted already.
    """
    known = [name for name in dataset.cameras if not dataset.is_depth(name) and dataset.holds(name)]
    named = [name for name in known if not wanted or wanted in (name, name.rpartition(".")[2])]
    if len(named) != 1:
        raise ValueError(
            f"--camera '{wanted}': names {len(named)} of the cameras of '{dataset.root}' ({', '.join(known)}); tracks are of "
            "one camera, name it"
        )
    if (already := dataset.view(named[0])) is not None:
        raise ValueError(
            f"camera {named[0]} of '{dataset.root}' is {already} already: paint the dataset that it was made of"
        )
    return named[0]


def paint_dataset(
    dataset: LeRobotDataset, camera: str, tracks: Path, painter: Painter, view: View, out: Path, progress: Progress
) -> dict[str, Any]:
    """Writes the video files that are missing in `out`, and copies all else; what was painted, and why the rest was not.

    `tracks`: folder of a `TrackFile` for each episode, "<dataset>/episode_000003.npz", as `giza simulate --tracks` writes
    it. An episode without one stays as it is, and is named, in the metadata too: readers leave it out, for it is of another
    view. Raises ValueError where a video cannot be replaced by one of its rate, and where some episodes cannot be listed.
    """
    fps = dataset.fps
    if fps != round(fps):
        raise ValueError(f"'{dataset.root}' has {fps:g} rows a second: videos are written at whole rates alone")
    by_file: dict[Path, list[EpisodePlace]] = defaultdict(list)
    counts: Counter[str] = Counter()
    skipped: list[dict[str, Any]] = []
    files: list[Stats] = []
    episodes: dict[int, Stats] = {}
    for place in dataset.all_episodes((camera,)):
        if camera in place.lost:
            skipped.append({"episode": place.index, "reason": "no_place", "detail": place.lost[camera]})
        else:
            by_file[place.videos[camera].path].append(place)
    for done, (path, places) in enumerate(sorted(by_file.items())):
        progress(done, len(by_file), f"painting: {counts['painted']} episodes")
        inside = path.relative_to(dataset.root)
        target, said = out / inside, out / PAINTING / f"{inside.with_suffix('')}.json"
        record = read_json(said)
        if record is None:
            for folder in (target.parent, said.parent):
                folder.mkdir(parents=True, exist_ok=True)
            record = _paint_file(dataset, camera, path, places, tracks, painter, target)
            write_json(said, record)
        counts.update(record["counts"])
        skipped += record["skipped"]
        files.append(record["stats"])
        episodes |= {int(episode): found for episode, found in record["episode_stats"].items()}
    _copy_the_rest(dataset.root, out, set(by_file))
    unpainted = {each["episode"]: f"{each['reason']}: {each['detail']}" for each in skipped}
    tell_painted(dataset.root, out, camera, view, unpainted, files, episodes)
    if skipped:
        told = faults_told((f"episode {each['episode']}", f"{each['reason']}: {each['detail']}") for each in skipped)
        log.warning("episodes that are kept as they are, and left out where the painted ones are read: %s", told)
    progress(len(by_file), len(by_file), f"painting: {counts['painted']} episodes")
    names = ("painted", "frames", "seen_frames", "hidden_px", "before_px")
    return {"camera": camera, "files": len(by_file), **{name: counts[name] for name in names}, "skipped": skipped}


def tracks_identity(dataset: LeRobotDataset, tracks: Path) -> str:
    """Of the files of its episodes. Raises ValueError where there is none."""
    files = sorted((tracks / dataset.name).glob("episode_*.npz"))
    if not files:
        raise ValueError(
            f"--tracks '{tracks}': holds no {dataset.name}/episode_000000.npz; of a LeRobot dataset name a folder as giza simulate "
            "--tracks writes it"
        )
    return digest_of(json.dumps([[path.name, path.stat().st_size] for path in files]))


def _paint_file(
    dataset: LeRobotDataset,
    camera: str,
    path: Path,
    places: list[EpisodePlace],
    tracks: Path,
    painter: Painter,
    target: Path,
) -> dict[str, Any]:
    try:
        facts = probe(path)
    except Unusable as error:
        raise ValueError(f"{path}: {error}; restore the file, or leave its episodes out") from error
    off = np.abs(facts.times - facts.times[0] - np.arange(len(facts.times)) / dataset.fps).max()
    if off > 0.5 / dataset.fps or not facts.times_exact:
        raise ValueError(
            f"{path}: its frames are not {dataset.fps:g} a second (off by {off:.3f} s), so it cannot be replaced by a video "
            "that is; encode it again at its dataset's rate"
        )
    spans: list[_Span] = []
    skipped: list[dict[str, Any]] = []
    for place in places:
        try:
            spans.append(_span(dataset, camera, place, facts, tracks))
        except Untracked as fault:
            skipped.append({"episode": place.index, "reason": fault.reason, "detail": fault.detail})
    episodes: dict[int, Counter[str]] = {span.episode: Counter() for span in spans}
    stats, episode_stats = ImageStats(), {span.episode: ImageStats() for span in spans}
    with written_whole(target) as temporary, EpisodeVideo(temporary, round(dataset.fps), _ENCODING) as video:
        for image, span, painted in _frames(path, facts, spans, painter):
            video.add(image)
            stats.add(image)
            if span is not None and painted is not None:
                hidden, before = int(painted.hidden.sum()), int(painted.before.sum())
                found = {"frames": 1, "seen_frames": int(hidden > 0), "hidden_px": hidden, "before_px": before}
                episodes[span.episode].update(found)
                episode_stats[span.episode].add(image)
    counts = sum(episodes.values(), Counter({"painted": len(spans)}))
    told = {episode: found.found() for episode, found in episode_stats.items()}
    return {"counts": counts, "episodes": episodes, "skipped": skipped, "stats": stats.found(), "episode_stats": told}


def _span(dataset: LeRobotDataset, camera: str, place: EpisodePlace, facts: VideoFacts, tracks: Path) -> _Span:
    """Raises Untracked where the episode has no track that fits."""
    span = place.videos[camera]
    paired = pair(facts, (span.from_s, span.to_s), None, dataset.fps)
    if paired is None:
        raise Untracked("no_frame", f"{span.path.name} shows nothing of it")
    name = f"{dataset.group(place.index)}.npz"
    if not (tracks / name).is_file():
        raise Untracked("no_file", f"'{tracks}' has no {name}")
    width, height = (facts.height, facts.width) if facts.showing.transposed else (facts.width, facts.height)
    track = TrackFile.read(tracks / name).at(facts.times[paired.shown] - paired.zero_s, (width, height), width / height)
    if not track.mask.any():
        raise Untracked("no_agent", f"{name} has no mask")
    return _Span(place.index, paired.shown, track)


def _frames(
    path: Path, facts: VideoFacts, spans: list[_Span], painter: Painter
) -> Iterator[tuple[NDArray[np.uint8], _Span | None, Painted | None]]:
    """All frames of the file; those of the spans painted, with how it was done."""
    of_frame = {
        frame: (span, frame - span.frames.start) for span in spans for frame in range(len(facts.times))[span.frames]
    }
    convert, report = Converter(facts.showing), DecodingReport()
    last: _Span | None = None
    number = -1
    for number, (_, frame) in enumerate(decoded_frames(path, facts, report=report)):
        image = convert(frame)
        span, at = of_frame.get(number, (None, 0))
        if span is not None:
            if span is not last:
                painter.begin()
            painted = painter.paint(image[None], span.track.frames(slice(at, at + 1)))
            yield painted.frames[0], span, painted
        else:
            yield image, None, None
        last = span
    if number + 1 != len(facts.times) or report.first_error:
        raise ValueError(
            f"{path}: {number + 1} of {len(facts.times)} frames decode ({report.first_error or 'truncated'}): an episode "
            "would lose its frames; restore the file"
        )


def _copy_the_rest(root: Path, out: Path, painted: set[Path]) -> None:
    """All files but the painted videos, those whose names begin with a dot, and `OWN`; and info.json, which `tell_painted` writes
    last: before it is there the folder is no dataset, and nobody takes it for one of pictures as the camera took them."""
    painted = {*painted, root / "meta" / "info.json"}
    for path in sorted(root.rglob("*")):
        target = out / path.relative_to(root)
        if path.relative_to(root).parts[0] in OWN:
            continue
        if not path.is_file() or path in painted or path.name.startswith(".") or target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as temporary:
            shutil.copyfile(path, temporary)
