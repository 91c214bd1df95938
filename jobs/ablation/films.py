"""Films of an arm: a start that it solves and one that it does not, played once more for the camera."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.simulation.tasks import INSTRUCTIONS
from corpora.store.files import read_json, write_json
from jobs.evaluation.closed_loop import Act, ClosedLoopSettings, play
from jobs.evaluation.page import jpeg
from jobs.evaluation.videos import FILMS, video_frames, write_video

RECORD = "films.json"
"""Beside a cell's result: what was filmed."""
PAGE_BYTES = 10_000_000
"""Films take at most so much of a page; those that do not fit are named where they lie."""


def film(act: Act, how: ClosedLoopSettings, rollouts: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Films one success and one failure of `rollouts` (task, start, success) of `act` under `how` into `folder`; of one task,
    where a task has both. What is there already stays."""
    if read_json(folder / RECORD) is not None:
        return
    chosen = {(rollout["task"], rollout["start"]) for rollout in _one_of_each(rollouts)}
    others = {
        (rollout["task"], rollout["start"], INSTRUCTIONS[rollout["task"]])
        for rollout in rollouts
        if (rollout["task"], rollout["start"]) not in chosen
    }
    films = []
    for played in play(act, dataclasses.replace(how, videos=how.starts), skip=others):
        path = write_video(folder / FILMS, played)
        # as it came out now: a policy on other cores may round otherwise than it did when it was counted
        told = {"task": played.task, "start": played.start, "success": played.success, "seconds": played.seconds}
        films.append({**told, "file": f"{FILMS}/{path.name}"})
    write_json(folder / RECORD, {"films": films})


def _one_of_each(rollouts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A success and a failure, where there are any."""
    tasks = dict.fromkeys(rollout["task"] for rollout in rollouts)
    of_task = {task: [rollout for rollout in rollouts if rollout["task"] == task] for task in tasks}
    both = [found for found in of_task.values() if len({rollout["success"] for rollout in found}) == 2]
    among = both[0] if both else rollouts
    firsts = (next((rollout for rollout in among if rollout["success"] is wanted), None) for wanted in (True, False))
    return [rollout for rollout in firsts if rollout is not None]


def films_of(folder: Path, out: Path) -> list[dict[str, Any]]:
    """What was filmed of the cell in `folder`, with paths relative to `out`."""
    record = read_json(folder / RECORD) or {"films": []}
    return [{**film, "file": str((folder / film["file"]).relative_to(out))} for film in record["films"]]


@dataclass(frozen=True)
class ShownFilm:
    """A film on the page."""

    told: str
    success: bool
    file: str
    embedded: str
    """A data URL; "": there was no room, or the file is gone."""
    poster: str
    """Its last picture, likewise."""


def shown_films(result: Mapping[str, Any], out: Path) -> dict[str, list[ShownFilm]]:
    """Arm -> its films."""
    shown: dict[str, list[ShownFilm]] = {}
    room = PAGE_BYTES
    for run in result["runs"]:
        for one in run.get("films", []):
            path, embedded, poster = out / one["file"], "", ""
            if path.is_file() and (size := 4 * path.stat().st_size // 3 + 10_000) <= room:
                room -= size
                embedded = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
                poster = jpeg(video_frames(path)[-1][..., ::-1])
            told = f"{one['task']} #{one['start']}, {one['seconds']:.2f} s"
            shown.setdefault(run["arm"], []).append(ShownFilm(told, one["success"], one["file"], embedded, poster))
    return shown
