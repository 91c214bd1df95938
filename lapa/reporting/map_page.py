"""The map of the latents as a page has it: a picture that needs no script, and the data that map.js works with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lapa.reporting.images import Images
from lapa.reporting.latent_map import Kinds
from lapa.reporting.palette import REST

WIDTH, HEIGHT, MARGIN = 1000, 720, 24
SCRIPT = Path(__file__).with_name("map.js")


def map_script() -> Markup:
    """What makes the picture answer; it stands in the page itself."""
    return Markup(SCRIPT.read_text("utf-8"))


def on_paper(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N, 2] of any scale -> within WIDTH x HEIGHT, one scale for both axes, the second upwards."""
    low, high = places.min(0), places.max(0)
    scale = min((WIDTH - 2 * MARGIN) / max(high[0] - low[0], 1e-9), (HEIGHT - 2 * MARGIN) / max(high[1] - low[1], 1e-9))
    centred = (places - (low + high) / 2) * scale * (1, -1)
    return np.asarray(np.round(centred + np.array([WIDTH / 2, HEIGHT / 2])), np.int64)


def map_svg(images: Images) -> Markup:
    """Points of the first map in their first colours."""
    found = images.map
    places = on_paper(next(iter(found.places.values())))
    kinds = found.colourings[0]
    assert isinstance(kinds, Kinds)
    points = [
        f'<circle cx="{x}" cy="{y}" class="{colour_class(kinds.colours[kinds.of[k]])}"></circle>'
        for k, (x, y) in enumerate(places.tolist())
    ]
    return Markup(
        f'<svg id="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of {len(points)} pairs, by their {kinds.name}">'
        f"{''.join(points)}</svg>"
    )


def colour_class(colour: int) -> str:
    return "rest" if colour == REST else f"k{colour}"


def map_data(images: Images) -> dict[str, Any]:
    """Of each point, in lists: its places, colours, clip, time within the clip's video, and those nearest to it, each with how
    far it is: percent of the median distance of two points."""
    found = images.map
    videos = {clip: images.videos.get(clip) for clip in found.clips}
    start = [videos[found.clips[clip]] for clip in found.clip.tolist()]
    scale = 100 / max(found.typical, 1e-12)

    def near(lists: list[list[int]]) -> list[list[list[int]]]:
        return [[[j, round(float(found.distances[k, j]) * scale)] for j in each] for k, each in enumerate(lists)]

    return {
        "maps": {name: on_paper(places).ravel().tolist() for name, places in found.places.items()},
        "colourings": [each.to_json() for each in found.colourings],
        "labels": images.point_labels,
        "clip": found.clip.tolist(),
        "start": [
            round(max(0.0, t_s - video.start_s), 3) if video else 0.0
            for t_s, video in zip(images.starts_s, start, strict=True)
        ],
        "gap": [round(gap_s, 3) for gap_s in images.gaps_s],
        "near": near(found.near),
        "bodies": near(found.near_bodies),
    }


def map_videos(images: Images) -> dict[str, dict[str, Any]]:
    """Number of a clip -> its video: base64, width and height."""
    numbers = {clip: number for number, clip in enumerate(images.map.clips)}
    return {
        str(numbers[clip]): {
            "mp4": base64.b64encode(video.mp4).decode("ascii"), "width": video.width, "height": video.height,
        }
        for clip, video in images.videos.items()
    }  # fmt: skip


def playable(images: Images) -> int:
    """Points whose clip's video is on the page."""
    has = np.array([clip in images.videos for clip in images.map.clips])
    return int(has[images.map.clip].sum())
