"""Episodes in RLDS (TFRecord with dataset_info.json and features.json), as Open X-Embodiment has them.

    episodes = open_robot_episodes("bridge_dataset/1.0.0", cameras=["image_0"])

Features are called by their path with dots: `observation.state`, `action`, `observation.image_0`. RLDS does not say how fast
it was recorded, so steps are counted as BridgeData V2's, STEP_S apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.frame_table import FrameFault
from corpora.modality import DEFAULT_COLUMNS, Modality, ModalityPart, choose_parts, whole_column
from corpora.robot_episodes import RobotEpisode, RobotEpisodes
from corpora.tf_records import Values, example, records
from corpora.video_source import stamp_of

STEP_S = 0.2
"""Seconds between steps (BridgeData V2: 5 a second)."""
MARKER = "features.json"
"""Lies beside the records."""
_STEPS = "steps/"
_INSTRUCTIONS = ("language_instruction", "observation/natural_language_instruction")


def is_rlds(root: str | Path) -> bool:
    """Whether records and their features.json lie there."""
    folder = Path(root).expanduser()
    return (folder / MARKER).is_file() and (folder / "dataset_info.json").is_file()


def open_robot_episodes(root: str | Path, **choices: Any) -> RobotEpisodes:
    """The episodes at `root`, LeRobot or RLDS; `choices` as `RobotEpisodes` takes them."""
    return RldsEpisodes(root, **choices) if is_rlds(root) else RobotEpisodes(root, **choices)


class RldsEpisodes(RobotEpisodes):
    """As `RobotEpisodes`, of the RLDS dataset at `root`; episodes are numbered as they lie in the files.

    Views that an episode lacks are blank in RLDS, so a picture of one colour is none. (Metadata like `has_image_1` are not
    relied on: octo's copy of BridgeData says false of views that are there.)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        cameras: Sequence[str] = (),
        state: Sequence[str] | None = (),
        action: Sequence[str] = (),
        indices: Iterable[int] | None = None,
        previous_action: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.info = _read_json(self.root / "dataset_info.json")
        self.name = str(self.info.get("name") or self.root.resolve().name)
        features, pictures = _features(_read_json(self.root / MARKER))
        self.fps, self.robot_type = 1 / STEP_S, ""
        parts = {
            kind: (whole_column(features, column),) if column in features else ()
            for kind, column in DEFAULT_COLUMNS.items()
        }
        self.modality = Modality(False, parts["state"], parts["action"], {}, {})
        self.cameras = _choose_cameras(self.name, pictures, cameras)
        self.state_parts = () if state is None else choose_parts(self.modality.state, state, "state", features)
        self.action_parts = choose_parts(self.modality.action, action, "action", features)
        self.state_names = tuple(dim for part in self.state_parts for dim in part.dims)
        self.action_names = tuple(dim for part in self.action_parts for dim in part.dims)
        self.faults = []
        self._files = sorted(path for path in self.root.iterdir() if ".tfrecord" in path.name)
        self._gather_records(None if indices is None else {int(index) for index in indices})
        if previous_action:
            self._remember_actions()

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files and with the episodes chosen, not with the folder."""
        facts = [(path.name, stamp_of(path)) for path in self._files]
        return hashlib.blake2b(repr((facts, self.indices)).encode(), digest_size=16).hexdigest()

    def fill(
        self,
        pictures: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    ) -> list[FrameFault]:
        """Decodes all pictures to [R, V, S, S, 3] as `resize` makes them; returns what went wrong."""
        faults = []
        of_index = {episode.index: episode for episode in self.episodes}
        for index, found in self._examples():
            episode = of_index.get(index)
            if episode is None:
                continue
            for view, camera in enumerate(self.cameras):
                for row, encoded in zip(range(episode.start, episode.stop), found.get(_key(camera), []), strict=False):
                    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
                    if decoded is not None and decoded.min() < decoded.max():
                        pictures[row, view] = resize(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))
                        valid[row, view] = True
                lacking = int((~valid[episode.start : episode.stop, view]).sum())
                if lacking:
                    faults.append(FrameFault(episode.group, camera, "blank, or no picture", lacking))
        return faults

    def _examples(self) -> Iterator[tuple[int, dict[str, Values]]]:
        index = 0
        for path in self._files:
            for record in records(path):
                yield index, example(record)
                index += 1

    def _gather_records(self, wanted: set[int] | None) -> None:
        states, actions, times, numbers = [], [], [], []
        instructions: dict[str, int] = {}
        self.episodes = []
        row = count = 0
        for index, found in self._examples():
            count += 1
            if wanted is not None and index not in wanted:
                continue
            try:
                state, action = (_numbers(found, parts) for parts in (self.state_parts, self.action_parts))
                length = max(len(part) for part in (state, action) if part is not None)
                told = next((found[_STEPS + key] for key in _INSTRUCTIONS if found.get(_STEPS + key)), [b""])
                text = bytes(told[0]).decode("utf-8", "replace")
            except (ValueError, KeyError) as error:
                self.faults.append((index, f"{type(error).__name__}: {error}"))
                continue
            start, t_s = row, np.arange(length, dtype=np.float64) * STEP_S
            row += length
            group = f"{self.name}/episode_{index:06d}"
            self.episodes.append(RobotEpisode(index, group, text, start, row, t_s, state, action, {}))
            states.append(state)
            actions.append(action)
            times.append(t_s)
            numbers.append(np.full(length, instructions.setdefault(text, len(instructions)), np.int32))
        if wanted is not None and (lacking := wanted - set(range(count))):
            raise ValueError(
                f"episodes {sorted(lacking)[:8]}: dataset '{self.name}' does not have them; it has {count}"
            )
        if not self.episodes:
            raise ValueError(f"dataset '{self.root}' has no usable episode: {self.faults[:3] or 'no record'}")
        self.t_s, self.instruction = np.concatenate(times), np.concatenate(numbers)
        self.instructions = tuple(instructions)
        self.state = None if not self.state_parts else np.concatenate([part for part in states if part is not None])
        self.action = None if not self.action_parts else np.concatenate([part for part in actions if part is not None])


def _key(feature: str) -> str:
    return _STEPS + feature.replace(".", "/")


def _numbers(found: Mapping[str, Values], parts: Sequence[ModalityPart]) -> NDArray[np.float32] | None:
    """[N, D] of the parts' dimensions. Raises ValueError where steps do not fit or numbers are not finite."""
    if not parts:
        return None
    steps = len(found[f"{_STEPS}is_first"]) if f"{_STEPS}is_first" in found else 0
    columns = []
    for part in parts:
        flat = np.asarray(found[_key(part.column)], np.float32)
        length = steps or flat.size // max(part.end, 1)
        if not length or flat.size % length or flat.size // length < part.end:
            raise ValueError(f"'{part.column}' has {flat.size} numbers for {length} steps")
        columns.append(flat.reshape(length, -1)[:, part.start : part.end])
    values = np.concatenate(columns, 1)
    if not np.isfinite(values).all():
        raise ValueError(f"numbers that are not finite in {[part.column for part in parts]}")
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from where the data came") from error


def _features(record: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Numeric features of a step as info.json of LeRobot would list them, and the names of those that are pictures."""
    numeric: dict[str, dict[str, Any]] = {}
    pictures: list[str] = []

    def walk(entry: Mapping[str, Any], name: str) -> None:
        for key, inner in ((entry.get("featuresDict") or {}).get("features") or {}).items():
            walk(inner, f"{name}.{key}" if name else key)
        sizes = [int(size) for size in _shape(entry, "tensor")]
        if "image" in entry and _shape(entry, "image")[-1:] == ["3"]:
            pictures.append(name)
        elif "tensor" in entry and str(entry["tensor"].get("dtype", "")).startswith("float"):
            numeric[name] = {"dtype": "float32", "shape": [math.prod(sizes)]}

    steps = ((record.get("featuresDict") or {}).get("features") or {}).get("steps")
    if not isinstance(steps, dict) or "sequence" not in steps:
        raise ValueError(f"{MARKER} has no steps: it is no RLDS dataset")
    walk(steps["sequence"]["feature"], "")
    return numeric, sorted(pictures)


def _shape(entry: Mapping[str, Any], kind: str) -> list[str]:
    return [str(size) for size in ((entry.get(kind) or {}).get("shape") or {}).get("dimensions") or []]


def _choose_cameras(name: str, pictures: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    chosen = []
    for camera in wanted or pictures:
        matches = [feature for feature in pictures if camera in (feature, feature.rpartition(".")[2])]
        if not matches:
            raise ValueError(f"camera '{camera}': dataset '{name}' has none of this name; it has {list(pictures)}")
        chosen.append(matches[0])
    if not chosen:
        raise ValueError(f"dataset '{name}' has no feature that is a picture in colour")
    return tuple(dict.fromkeys(chosen))
