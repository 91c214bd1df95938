"""Items as a recording for rerun (https://rerun.io), which is an optional extra."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from corpora.store.files import written_whole
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.probe import probe
from corpora.video.shown import Converter
from jobs.viewing.items import Film, Viewed

TIMELINE = "time"


def save_recording(
    viewed: Viewed, numbers: Sequence[int], path: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Videos and tracks of the items `numbers` on one time line, each item below its name. Raises ValueError where rerun is not
    installed."""
    try:
        import rerun as rr
    except ImportError as error:
        raise ValueError("--save: rerun is not installed: pip install 'giza[view]'") from error
    with written_whole(path) as temporary:
        recording = rr.RecordingStream("giza")
        recording.save(str(temporary))
        for done, number in enumerate(numbers, 1):
            head = viewed.heads[number]
            below = f"{number:06d} {head.name}"
            recording.log(rr.new_entity_path([below]), rr.TextDocument(head.text), static=True)
            for track in viewed.tracks(number):
                for dim in _widest(track.values) if track.kind == "heat" else range(len(track.names)):
                    values = np.asarray(track.values[:, dim], np.float64)
                    known = np.isfinite(values)
                    times = rr.TimeColumn(TIMELINE, duration=track.t_s[known])
                    entity = rr.new_entity_path([below, track.title, track.names[dim]])
                    recording.send_columns(entity, [times], rr.Scalars.columns(scalars=values[known]))
            for film in viewed.films(number):
                _log_frames(recording, rr.new_entity_path([below, film.camera]), film, head.seconds)
            if progress is not None:
                progress(done, len(numbers))
        recording.flush()
        del recording


def _widest(values: np.ndarray, count: int = 16) -> list[int]:
    """The dimensions that vary most: a curve for each of hundreds would be read by nobody."""
    return sorted(np.argsort(values.std(0))[::-1][:count].tolist())


def _log_frames(recording: object, entity: str, film: Film, seconds: float) -> None:
    import rerun as rr

    if isinstance(film.source, bytes):
        import av

        with av.open(io.BytesIO(film.source), "r") as container:
            frames = [
                (float(frame.time or 0.0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
            ]
    else:
        facts = probe(film.source)
        convert = Converter(facts.showing)
        end_s = film.from_s + seconds + 1e-3
        found = decoded_frames(film.source, facts, report=DecodingReport(), start_s=film.from_s, end_s=end_s)
        frames = [(t_s - film.from_s, convert(frame)) for t_s, frame in found if t_s >= film.from_s - 1e-6]
    for t_s, image in frames:
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        recording.set_time(TIMELINE, duration=t_s)  # type: ignore[attr-defined]
        recording.log(entity, rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg"))  # type: ignore[attr-defined]
