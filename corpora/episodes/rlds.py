"""Episodes in RLDS (TFRecord with dataset_info.json and features.json), as Open X-Embodiment has them.

    episodes = open_episodes("bridge_dataset/1.0.0", EpisodeSelection(cameras=("image_0",)))

Features are called by their path with dots: `observation.state`, `action`, `observation.image_0`. RLDS does not say how fast
it was recorded: steps are counted as BridgeData V2's, STEP_S apart, unless a file giza.json beside the records says how many
there are a second:

    {"steps_per_s": 10}
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.episodes.episode import Episode, Episodes
from corpora.episodes.modality import (
    COLUMNS,
    Modality,
    ModalityPart,
    camera_named,
    choose_parts,
    default_parts,
    joined,
    measured,
    names_of,
    none_known,
)
from corpora.episodes.selection import EpisodeSelection
from corpora.episodes.tf_records import Values, example, records
from corpora.store.files import machine_trouble, stamp_of
from corpora.store.frames import FrameFault, Images, Progress, Valid
from corpora.store.told import warn_once
from corpora.video.image import decode_image, fit_square

log = logging.getLogger(__name__)

STEP_S = 0.2
"""Seconds between steps where nothing says so (BridgeData V2: 5 a second)."""
MARKER = "features.json"
"""Lies beside the records."""
_INFO, _RATE = "dataset_info.json", "giza.json"
_SHARD = re.compile(r".*-(?P<split>[^-]+)\.tfrecord-(?P<number>\d+)-of-\d+")
_FORMAT = 2
"""Raised when the same files would give other images."""
_STEPS = "steps/"
_INSTRUCTIONS = ("language_instruction", "observation.natural_language_instruction")
"""Asked first, then texts with other names that say so (DROID: language_instruction_2)."""
_INSTRUCTION = re.compile(r"(.*\.)?([^.]*(instruction|language)[^.]*|task|task_description|prompt|text)")


def read_rlds(root: Path, selection: EpisodeSelection) -> Episodes:
    """All episodes of the RLDS dataset at `root`, with the cameras and columns of `selection`, numbered as they lie in the
    files. `faults` lists records that are damaged and episodes whose states, actions and images are not of one length.
    Raises ValueError as `open_episodes`.
    """
    info = _read_json(root / _INFO)
    name = str(info.get("name") or root.resolve().name)
    features, image_features, texts, others = _features(root / MARKER)
    fps = _steps_per_s(root, name)
    state, action = (default_parts(features, kind) for kind in COLUMNS)
    for kind, parts, wanted in (("state", state, selection.state), ("action", action, selection.action)):
        if not wanted:
            _check_whole(name, kind, parts, [*texts, *others])
    if not image_features:
        raise ValueError(f"dataset '{name}' has no feature that is an image in colour")
    named = [camera_named(camera, image_features, name) for camera in selection.cameras]
    cameras = tuple(dict.fromkeys(named or image_features))
    state_parts = choose_parts(state, selection.state, "state", features)
    action_parts = choose_parts(action, selection.action, "action", features)
    if not state_parts and not action_parts:
        columns = measured(features)
        raise ValueError("; ".join(none_known(kind, name, columns) for kind in COLUMNS))
    widths = {feature: int(facts["shape"][0]) for feature, facts in features.items()}
    needed = {part.column for part in (*state_parts, *action_parts)}
    records = _Records(root, _shard_lengths(info))
    whole, faults = [], []
    for record in records:
        try:
            found = record.values()
            length = _steps(found, cameras, (*state_parts, *action_parts), widths)
            arrays = {name: _flat(found, name).reshape(-1, widths[name]) for name in needed}
            states, actions = (joined(parts, arrays.__getitem__) for parts in (state_parts, action_parts))
        except ValueError as error:
            faults.append((record.index, f"{record.place}: {error}"))
            continue
        group, instructions = f"{name}/episode_{record.index:06d}", _instructions(found, texts, length)
        t_s = np.arange(length, dtype=np.float64) / fps
        whole.append(Episode(record.index, group, instructions, t_s, states, actions))
    return Episodes(
        root=root,
        name=name,
        fps=fps,
        robot_type="",
        cameras=cameras,
        modality=Modality(state, action, {}, {}, measured(features)),
        state_parts=state_parts,
        action_parts=action_parts,
        episodes=whole,
        faults=faults,
        reader=records,
        state_names=names_of(state_parts),
        action_names=names_of(action_parts),
    )


class _Records:
    """All records of a dataset, and the images in them.

    Views that an episode lacks are blank in RLDS, so an image of one colour is none. (Metadata like `has_image_1` are not
    relied on: octo's copy of BridgeData says false of views that are there.)
    """

    def __init__(self, root: Path, lengths: Mapping[str, Sequence[int]]) -> None:
        self._files = sorted(path for path in root.iterdir() if ".tfrecord" in path.name)
        self._lengths = lengths

    def __iter__(self) -> Iterator[_Record]:
        """In order; where a file is cut off, those that it lacks, as far as it is known how many."""
        index = 0
        for path in self._files:
            first, damage = index, ""
            try:
                for content, wrong in records(path):
                    yield _Record(index, f"{path.name}, record {index - first}", content, wrong)
                    index += 1
            except (OSError, ValueError) as error:
                if machine_trouble(error):
                    raise
                damage = str(error)
            count = index - first
            expected = max(_shard_length(path.name, self._lengths), count + bool(damage))
            damage = damage or f"{count} records are there, {_INFO} lists {expected}; copy the file again"
            for place in range(count, expected):
                yield _Record(index, f"{path.name}, record {place}", b"", damage)
                index += 1

    def fingerprint(self, episodes: Episodes) -> str:
        facts = [(path.name, stamp_of(path)) for path in self._files]
        return hashlib.blake2b(repr((_FORMAT, facts, episodes.indices)).encode(), digest_size=16).hexdigest()

    def fill(self, episodes: Episodes, images: Images, valid: Valid, progress: Progress | None) -> list[FrameFault]:
        faults = []
        of_index = {episode.index: episode for episode in episodes.episodes}
        for record in self:
            episode = of_index.get(record.index)
            if episode is None:
                continue
            found = record.values()
            for view, camera in enumerate(episodes.cameras):
                lacking: Counter[str] = Counter()
                rows = range(episode.start, episode.stop)
                for row, encoded in zip(rows, _encoded(found, camera), strict=True):
                    try:
                        rgb = decode_image(encoded)
                    except ValueError as error:
                        lacking[str(error)] += 1
                        continue
                    if (rgb.min((0, 1)) == rgb.max((0, 1))).all():
                        lacking["blank: an image of one colour"] += 1
                        continue
                    images[row, view], valid[row, view] = fit_square(rgb, images.shape[2], "stretch"), True
                faults += [FrameFault(episode.group, camera, reason, count) for reason, count in lacking.items()]
            if progress is not None:
                progress(episode.stop, len(images))
        return faults


def _steps(
    found: Mapping[str, Values], cameras: Sequence[str], parts: Sequence[ModalityPart], widths: Mapping[str, int]
) -> int:
    """Of an episode. Raises ValueError where its numbers and images are not of one length."""
    counts = {camera: len(_encoded(found, camera)) for camera in cameras}
    for part in parts:
        size, width = len(_flat(found, part.column)), widths[part.column]
        if size % width:
            raise ValueError(f"'{part.column}' has {size} numbers, no multiple of the {width} that {MARKER} says")
        counts[part.column] = size // width
    if f"{_STEPS}is_first" in found:
        counts["is_first"] = len(found[f"{_STEPS}is_first"])
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise ValueError(f"steps must be equally many of all features, at least 1; they are {counts}")
    return next(iter(counts.values()))


@dataclass(frozen=True)
class _Record:
    """Of one episode."""

    index: int
    """Of the episode, counted over all files."""
    place: str
    """The file and which of its records it is, from 0."""
    content: bytes
    damage: str = ""
    """Why the content is none, or not to be trusted."""

    def values(self) -> dict[str, Values]:
        """Raises ValueError for a record that is damaged."""
        if self.damage:
            raise ValueError(self.damage)
        return example(self.content)


def _shard_lengths(info: Mapping[str, Any]) -> dict[str, list[int]]:
    """Split -> records in each of its files, as far as dataset_info.json has them."""
    try:
        return {split["name"]: [int(length) for length in split["shardLengths"]] for split in info.get("splits", [])}
    except (KeyError, TypeError, ValueError):
        return {}


def _shard_length(name: str, lengths: Mapping[str, Sequence[int]]) -> int:
    """How many records a file of this name should have; 0 where it is not known."""
    found = _SHARD.fullmatch(name)
    if not found:
        return 0
    of_split, number = lengths.get(found["split"], ()), int(found["number"])
    return of_split[number] if number < len(of_split) else 0


def _steps_per_s(root: Path, name: str) -> float:
    """Of giza.json, else as in BridgeData V2, with a warning. Raises ValueError for a rate that is none."""
    path = root / _RATE
    if not path.is_file():
        warn_once(
            log,
            f"dataset '{name}': RLDS does not say how fast it was recorded; {1 / STEP_S:g} steps a second are assumed, as in "
            f'BridgeData V2. If it was another rate, write it to {path}: {{"steps_per_s": 10}}',
        )
        return 1 / STEP_S
    rate = _read_json(path).get("steps_per_s")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise ValueError(f"{path}: steps_per_s {rate!r} must be a number above 0, for example 5")
    return float(rate)


def _key(feature: str) -> str:
    return _STEPS + feature.replace(".", "/")


def _encoded(found: Mapping[str, Values], camera: str) -> list[bytes]:
    """An image for each step. Raises ValueError where a feature holds numbers."""
    values = found.get(_key(camera), [])
    if not isinstance(values, list):
        raise ValueError(f"'{camera}' holds numbers where {MARKER} promises images")
    return values


def _flat(found: Mapping[str, Values], column: str) -> NDArray[np.float32]:
    """All numbers of a feature, step after step. Raises ValueError where it holds none."""
    values = found.get(_key(column), [])
    if isinstance(values, list):
        raise ValueError(f"'{column}' holds {'bytes' if values else 'nothing'} where {MARKER} promises numbers")
    return np.asarray(values, np.float32)


def _instructions(found: Mapping[str, Values], names: Sequence[str], length: int) -> list[str]:
    """One a step, of the first feature that says anything; steps at which it does not have its first. "" without any."""
    for name in names:
        values = found.get(_key(name), [])
        texts = [value.decode("utf-8", "replace") for value in values] if isinstance(values, list) else []
        first = next((text for text in texts if text.strip()), "")
        if first:
            return [text if text.strip() else first for text in texts] if len(texts) == length else [first] * length
    return [""] * length


def _check_whole(name: str, kind: str, parts: Sequence[ModalityPart], others: Sequence[str]) -> None:
    """Raises ValueError where a state or action would be joined without some of its parts."""
    lacking = [other for other in others if other.startswith(tuple(f"{column}." for column in COLUMNS[kind]))]
    columns = [part.column for part in parts]
    if columns and lacking and not set(columns) & set(COLUMNS[kind]):
        raise ValueError(
            f"dataset '{name}': parts of its {kind} are not as many numbers in every step: {lacking}; choose among "
            f"{columns} with --{kind}, or with {kind} in the pyramid file"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from where the data came") from error


def _features(path: Path) -> tuple[dict[str, dict[str, Any]], list[str], list[str], list[str]]:
    """Numeric features of a step as info.json of LeRobot would list them; the names of those that are images, of texts that
    may be instructions in the order in which they are asked, and of all others. Raises ValueError for a file that is not as
    RLDS has it."""
    numeric: dict[str, dict[str, Any]] = {}
    images: list[str] = []
    texts: list[str] = []
    others: list[str] = []

    def walk(entry: Mapping[str, Any], name: str) -> None:
        for key, inner in ((entry.get("featuresDict") or {}).get("features") or {}).items():
            walk(inner, f"{name}.{key}" if name else key)
        if "image" in entry and _shape(entry, "image")[-1:] == ["3"]:
            images.append(name)
        elif ("text" in entry or _dtype(entry) == "string") and _INSTRUCTION.fullmatch(name):
            texts.append(name)
        elif _dtype(entry).startswith(("float", "int", "uint", "bool")) and (size := _size(entry)):
            numeric[name] = {"dtype": "float32", "shape": [size]}
        elif name and "featuresDict" not in entry:
            others.append(name)

    try:
        walk(_read_json(path)["featuresDict"]["features"]["steps"]["sequence"]["feature"], "")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has no steps: it is no RLDS dataset, which has featuresDict.features.steps.sequence.feature "
            f"({type(error).__name__}: {error}); restore it from where the data came"
        ) from error
    texts.sort(key=lambda name: ([*_INSTRUCTIONS, name].index(name), "instruction" not in name, name))
    return numeric, sorted(images), texts, others


def _dtype(entry: Mapping[str, Any]) -> str:
    """Of a tensor; "" of what is none, or lies there compressed."""
    tensor = entry.get("tensor") or {}
    return str(tensor.get("dtype") or "") if str(tensor.get("encoding") or "none").lower() == "none" else ""


def _size(entry: Mapping[str, Any]) -> int:
    """How many numbers a step has; 0 where it is another in each (-1)."""
    sizes = [int(size) for size in _shape(entry, "tensor")]
    return math.prod(sizes) if all(size > 0 for size in sizes) else 0


def _shape(entry: Mapping[str, Any], kind: str) -> list[str]:
    return [str(size) for size in ((entry.get(kind) or {}).get("shape") or {}).get("dimensions") or []]
