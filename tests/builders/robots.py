"""Robot datasets of plain numbers, in a format of their own: arrays in a file, images of one grey a camera. No video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from corpora.episodes import opening
from corpora.episodes.episode import Episode, Episodes
from corpora.episodes.modality import Modality, ModalityPart
from corpora.episodes.selection import EpisodeSelection

MARK = "made.json"


def made_robot(
    folder: Path,
    state: NDArray[Any] | None,
    action: NDArray[Any],
    *,
    fps: float = 10,
    cameras: Sequence[str] = ("wrist",),
    state_names: Sequence[str] = (),
    action_names: Sequence[str] = (),
    tasks: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Path:
    """A dataset of E episodes of N rows: states [E, N, Ds] and actions [E, N, Da]; a task and a name for each episode."""
    folder.mkdir(parents=True)
    count = len(action)
    np.savez(folder / "rows.npz", action=action, **({} if state is None else {"state": state}))
    facts = {
        "fps": fps,
        "cameras": list(cameras),
        "state": list(state_names) or [f"state{k}" for k in range(0 if state is None else state.shape[2])],
        "action": list(action_names) or [f"action{k}" for k in range(action.shape[2])],
        "tasks": list(tasks) or ["pick"] * count,
        "names": list(names) or [f"episode_{k:06d}" for k in range(count)],
    }
    (folder / MARK).write_text(json.dumps(facts))
    return folder


def read_made(root: Path, selection: EpisodeSelection) -> Episodes:
    """As a format's reader."""
    facts, rows = json.loads((root / MARK).read_text()), np.load(root / "rows.npz")
    action = rows["action"].astype(np.float32)
    state = rows["state"].astype(np.float32) if "state" in rows else None
    cameras = tuple(name for name in facts["cameras"] if not selection.cameras or name in selection.cameras)
    parts = {kind: (ModalityPart(kind, kind, 0, len(facts[kind]), tuple(facts[kind])),) for kind in ("state", "action")}
    episodes = [
        Episode(
            k, f"{root.name}/{name}", [task] * action.shape[1], np.arange(action.shape[1]) / facts["fps"],
            None if state is None else state[k], action[k],
        )
        for k, (task, name) in enumerate(zip(facts["tasks"], facts["names"], strict=True))
    ]  # fmt: skip
    found = Episodes(
        root=root, name=root.name, fps=facts["fps"], robot_type="", cameras=cameras,
        modality=Modality(parts["state"], parts["action"], {}, {}), state_parts=parts["state"],
        action_parts=parts["action"], episodes=episodes, faults=[], reader=_Grey(facts["cameras"]),
        state_names=tuple(facts["state"]), action_names=tuple(facts["action"]),
    )  # fmt: skip
    return found.with_previous_action() if selection.previous_action else found


def know_made_robots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `open_episodes` read them."""
    made = opening.EpisodeFormat("made", (MARK,), "tests.builders.robots:read_made", ".", "*.json")
    monkeypatch.setattr(opening, "FORMATS", [*opening.FORMATS, made])


class _Grey:
    """Each camera shows one grey: 10 for the dataset's first, 20 for its second, ..."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self.cameras = list(cameras)

    def fingerprint(self, episodes: Episodes) -> str:
        return f"{episodes.root} {len(episodes.t_s)} {self.cameras}"

    def fill(self, episodes: Episodes, images: NDArray[np.uint8], valid: NDArray[np.bool_], progress: Any) -> list[Any]:
        for place, camera in enumerate(episodes.cameras):
            images[:, place] = 10 * (1 + self.cameras.index(camera))
        valid[:] = True
        return []
