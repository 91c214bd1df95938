"""An evaluation as one self-contained page: what it says in words first, then pictures, then numbers. Its numbers are those of
evaluation.json; trajectories and films lie beside that."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.store.files import write_text
from jobs.evaluation.curves import Panel, episode_panels, most_moving_first, step_panel, ticks, unit_of
from jobs.evaluation.drawn import FILM_HZ, DrawnEpisode, beside_best, drawn_episodes, film_path
from jobs.evaluation.open_loop import BASELINES, describe_still, episodes_told
from jobs.evaluation.rollout_log import ROLLOUTS, Rollout, benchmark_told, logged
from jobs.evaluation.tables import LANGUAGE, span_told
from jobs.evaluation.verdict import two_digits, verdicts
from jobs.evaluation.videos import FILMS, video_frames, video_path
from lapa.reporting.page import render

PAGE = "evaluation.html"
TEMPLATE = Path(__file__).with_name("page.html.j2")
PAGE_BYTES = 6_000_000
"""The page is at most so large, to be sent by mail and opened on a phone. Films that do not fit are named where they lie; where
trajectories alone are more, fewer episodes are drawn."""
TRAJECTORIES = 0.6
"""At most this part of a page is taken by trajectories, so that some films have room."""
FIRST = 8
"""Dimensions that are drawn at once; the others on demand."""
STRIP, STRIP_SIDE = 12, 96
"""Frames above the curves, and pixels of their shorter side."""
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 80)
TITLES = {"open_loop": "Open loop, on recorded episodes", "closed_loop": "Closed loop, in {benchmark}"}
TONES = {"good": "v-trust", "concern": "v-trust-with-care", "bad": "v-do-not-trust", "unknown": ""}


@dataclass(frozen=True)
class Bar:
    """One bar, with its interval."""

    kind: str
    """Of its colour."""
    title: str
    value: float
    span: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class BarGroup:
    """Bars under one name."""

    name: str
    note: str
    bars: list[Bar]


@dataclass
class EpisodeView:
    """An episode as it is shown."""

    drawn: DrawnEpisode
    told: str
    panels: list[Panel]
    frames: list[tuple[float, str]]
    """Second and picture; empty without a film."""
    ticks: list[float]
    film: Path | None
    poster: str
    embedded: str = ""
    """The film; empty where it is too large for the page."""


@dataclass
class FilmView:
    """A rollout's film."""

    rollout: Rollout
    film: Path
    poster: str
    embedded: str = ""


@dataclass
class Shown:
    """What is taken from files beside evaluation.json."""

    episodes: list[EpisodeView] = field(default_factory=list)
    left_out: int = 0
    """Episodes without room."""
    films: list[FilmView] = field(default_factory=list)
    sheet: str = ""


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Writes the page of an evaluation.json to `path`, with what lies beside it there. Raises ValueError for damaged files."""
    shown = Shown(_episodes(result, path.parent), films=_films(result, path.parent))
    page = _rendered(result, shown)
    while len(page.encode()) > TRAJECTORIES * PAGE_BYTES and shown.episodes:
        shown.episodes.pop()
        shown.left_out += 1
        page = _rendered(result, shown)
    room = PAGE_BYTES - len(page.encode())
    sheet = path.parent / "contact_sheet.png"
    if shown.films and sheet.is_file():
        picture = cv2.imread(str(sheet))
        if picture is not None and len(found := jpeg(picture)) < room:
            shown.sheet, room = found, room - len(found)
    filmed: list[EpisodeView | FilmView] = [*shown.episodes, *shown.films]
    for view in filmed:
        if view.film is not None and 4 * view.film.stat().st_size / 3 + 200 < room:
            view.embedded = f"data:video/mp4;base64,{base64.b64encode(view.film.read_bytes()).decode('ascii')}"
            room -= len(view.embedded)
    write_text(path, _rendered(result, shown))


def _rendered(result: Mapping[str, Any], shown: Shown) -> str:
    opened, closed = result.get("open_loop"), result.get("closed_loop")
    found, benchmark = verdicts(result), benchmark_told((closed or {}).get("settings", {}))
    return render(
        TEMPLATE,
        result=result,
        verdicts=[(TITLES[part].format(benchmark=benchmark), verdict) for part, verdict in found.items()],
        tone=next((TONES[verdict.kind] for verdict in found.values()), ""),
        opened=opened,
        closed=closed,
        shown=shown,
        first=FIRST,
        hz=FILM_HZ,
        megabytes=f"{PAGE_BYTES / 1e6:g}",
        titles={"policy": "policy", "recorded": "recorded", **BASELINES},
        overall=None if opened is None else _overall(opened),
        steps=None if opened is None else step_panel(opened["normalised_squared_error_per_step"]),
        dimensions=[] if opened is None else _dimensions(opened),
        per_episode=[] if opened is None else _per_episode(opened),
        told="" if opened is None else episodes_told(opened["episodes"], opened["standing"]),
        still="" if opened is None or not opened.get("hold_still_is") else describe_still(opened["hold_still_is"]),
        rms={} if opened is None else _rms(opened),
        success=[] if closed is None else _shares(closed["success"]),
        language=[] if closed is None else _shares({LANGUAGE[k]: v for k, v in closed.get("language", {}).items()}),
        provenance=provenance_rows(result),
        span_told=span_told,
        number=two_digits,
        highest=_highest,
    )


# --- bars --------------------------------------------------------------------------------------------------------


def _bar(method: str, value: float | None, bounds: Sequence[float | None], scale: float = 1.0) -> Bar:
    """Of a squared error, over `scale`."""
    shown = math.nan if value is None else value / scale
    low, high = bounds
    span = None if low is None or high is None else (low / scale, high / scale)
    words = "not known" if value is None else f"{shown:.3g}"
    return Bar(method, BASELINES.get(method, method), shown, span, words)


def _overall(found: Mapping[str, Any]) -> BarGroup:
    bars = [
        _bar(method, each["value"], each["bootstrap95"] if found["episodes"] > 1 else (None, None))
        for method, each in found["normalised_squared_error"].items()
    ]
    return BarGroup("", "", bars)


def _dimensions(found: Mapping[str, Any]) -> list[BarGroup]:
    """Squared error over variance in each dimension that moves, the most moving first."""
    groups, several = [], found["episodes"] > 1
    rms = _rms(found)
    for dim in most_moving_first(found["moving"], found["std"]):
        if not found["moving"][dim]:
            continue
        name, bars = found["dimensions"][dim], []
        for method, each in found["squared_error_per_dimension"].items():
            bounds = [edge[dim] for edge in each["bootstrap95"]] if several else (None, None)
            bars.append(_bar(method, each["value"][dim], bounds, found["std"][dim] ** 2))
        groups.append(BarGroup(name, rms[name], bars))
    return groups


def _rms(found: Mapping[str, Any]) -> dict[str, str]:
    """Name of a dimension -> how far off the policy is in its own unit, beside holding still."""
    told = {}
    for dim, name in enumerate(found["dimensions"]):
        unit = f" {unit_of(name)}".rstrip()
        errors = {method: each["value"][dim] for method, each in found["squared_error_per_dimension"].items()}
        parts = [f"off by {math.sqrt(errors['policy']):.2g}{unit}"] if errors["policy"] is not None else []
        if errors.get("hold_still") is not None:
            parts.append(f"holding still by {math.sqrt(errors['hold_still']):.2g}{unit}")
        told[name] = ", ".join(parts)
    return told


def _per_episode(found: Mapping[str, Any]) -> list[BarGroup]:
    """The policy and its best baseline on each episode."""
    errors, groups = found.get("normalised_squared_error_per_episode", {}), []
    for place, number in enumerate(found.get("episode_numbers", ())):
        mine = {method: values[place] for method, values in errors.items() if values[place] is not None}
        best = sorted((name for name in mine if name != "policy"), key=lambda name: mine[name])[:1]
        chosen = [name for name in ("policy", *best) if name in mine]
        groups.append(BarGroup(f"episode {number}", "", [_bar(name, mine[name], (None, None)) for name in chosen]))
    return groups


def _shares(shares: Mapping[str, Any]) -> list[BarGroup]:
    bars = [
        Bar("policy", name, share["rate"], tuple(share["wilson95"]), f"{share['successes']} of {share['trials']}")
        for name, share in shares.items()
        if share["trials"]
    ]
    return [BarGroup("", "", bars)] if bars else []


def _highest(groups: Sequence[BarGroup]) -> float:
    """Of a scale: the mean chunk knows nothing of the moment and may be far off; its bar may end where the others do."""
    bars = [bar for group in groups for bar in group.bars if bar.kind != "mean_chunk" and math.isfinite(bar.value)]
    return 1.05 * max((max(bar.value, bar.span[1] if bar.span else 0.0) for bar in bars), default=1.0) or 1.0


# --- files beside evaluation.json --------------------------------------------------------------------------------


def _episodes(result: Mapping[str, Any], folder: Path) -> list[EpisodeView]:
    found = result.get("open_loop", {})
    views = []
    for drawn in drawn_episodes(folder, found.get("drawn", ())):
        panels = episode_panels(drawn, found["dimensions"], most_moving_first(found["moving"], found["std"]))
        ratio = beside_best(found["episode_numbers"], found["normalised_squared_error_per_episode"], drawn.episode)
        told = "" if ratio is None else f"x{two_digits(ratio)} of the squared error of its best baseline"
        film = film_path(folder / FILMS, drawn.episode)
        frames = video_frames(film) if film.is_file() else []
        strip, poster = (_strip(frames, drawn.seconds), jpeg(frames[0][..., ::-1])) if frames else ([], "")
        views.append(EpisodeView(drawn, told, panels, strip, ticks(drawn.seconds), film if frames else None, poster))
    return views


def _strip(frames: Sequence[NDArray[np.uint8]], seconds: float) -> list[tuple[float, str]]:
    """Pictures whose left edge is at their moment; the last one ends with the episode."""
    times = np.arange(STRIP) * seconds / STRIP
    places = [min(round(t * FILM_HZ), len(frames) - 1) for t in times]
    return [(float(t), jpeg(_small(frames[place])[..., ::-1])) for t, place in zip(times, places, strict=True)]


def _films(result: Mapping[str, Any], folder: Path) -> list[FilmView]:
    """Rollouts that were filmed; failures and successes take turns, so that both have room."""
    if "closed_loop" not in result:
        return []
    starts = result["closed_loop"]["settings"]["starts"]
    views = []
    for each in logged(folder / ROLLOUTS):
        film = video_path(folder / FILMS, each)
        if each.start < starts and film.is_file():
            views.append(FilmView(each, film, jpeg(video_frames(film)[-1][..., ::-1])))
    by_outcome = [[view for view in views if view.rollout.as_instructed is outcome] for outcome in (False, True)]
    order = sorted((place, which) for which, some in enumerate(by_outcome) for place in range(len(some)))
    return [by_outcome[which][place] for place, which in order]


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = STRIP_SIDE / min(frame.shape[:2])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(bgr: NDArray[Any]) -> str:
    """A picture [H, W, 3] as a data URL."""
    done, data = cv2.imencode(".jpg", bgr, JPEG)
    assert done
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


def provenance_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, where from) of the policy, of what it was measured on, and of the measuring."""
    made, training = result.get("provenance", {}), result.get("training", {})
    versions = ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items() if version)
    rows = {
        "policy": f"{result['policy']} ({result['fingerprint'][:12]})",
        "embodiment": result["embodiment"],
        "recipe": training.get("recipe"),
        "steps": training.get("steps"),
        "seed of the training": training.get("seed"),
        "seed of the evaluation": result["seed"],
        **{name: said for name, said in training.items() if name.startswith("latents of ")},
        **{f"settings, {part.replace('_', ' ')}": _settings(result[part]) for part in TITLES if part in result},
        "command": shlex.join(made.get("argv", [])),
        "version": versions + (f", commit {made['git']}" if made.get("git") else ""),
        "host": made.get("host"),
        "date": made.get("utc"),
        "took": f"{result['wall_s']:g} s" if "wall_s" in result else None,
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _settings(part: Mapping[str, Any]) -> str:
    hidden = ("fingerprint", "embodiment", "seed")
    kept = {name: value for name, value in part["settings"].items() if value and name not in hidden}
    return ", ".join(f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in kept.items())
