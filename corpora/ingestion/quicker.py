"""Which of the two decoders is the quicker on this machine: measured once, on a short video that is made for it."""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from corpora.ingestion.worker import IsolatedWorker, TaskFailed, WorkerDied, WorkerTimeout
from corpora.store.files import default_cache, read_json, write_json
from corpora.video.decode import DecodingReport, FrameSampler, read_frames
from corpora.video.probe import VideoFacts, probe
from corpora.video.quality import MEASURE_SIDE
from corpora.video.seek import Disagreement, read_with_decord

log = logging.getLogger(__name__)

MUCH = 0.8
"""decord is chosen where it takes less than this share of PyAV's time, so that the choice does not change from day to day."""
REPEATS = 3
LIMIT_S = 60.0
FRAMES, FPS, WIDTH, HEIGHT = 60, 30, 640, 480
MAX_FPS = 20.0


def quicker_decoder() -> dict[str, Any]:
    """{"chosen": "pyav" or "decord", "cpu_s": {decoder: CPU seconds for a video of two seconds}}; decord is not among them where
    it does not decode. Measured in a process of its own, and remembered in giza's cache for this machine and these versions."""
    path = default_cache() / "decoder" / f"{platform.node() or 'machine'}.json"
    measured_with = {
        "av": av.__version__,
        "decord": _version("decord"),
        "opencv": cv2.__version__,
        "machine": platform.machine(),
    }
    known = read_json(path)
    if known is not None and known.get("measured_with") == measured_with:
        return known
    with IsolatedWorker(f"{__name__}:measure", LIMIT_S) as worker:
        try:
            cpu_s = dict(worker.call({}))
        except (WorkerDied, WorkerTimeout, TaskFailed) as error:
            log.warning("decord is left aside, for its speed cannot be measured: %s", error)
            return {"chosen": "pyav", "cpu_s": {}}
    found = {"chosen": choice(cpu_s), "cpu_s": cpu_s, "measured_with": measured_with}
    with contextlib.suppress(OSError):  # a home that cannot be written to costs some seconds each time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found


def choice(cpu_s: dict[str, float]) -> str:
    """Of seconds by decoder: PyAV unless decord takes much less."""
    return "decord" if cpu_s.get("decord", np.inf) < MUCH * cpu_s["pyav"] else "pyav"


def measure(task: dict[str, Any], heartbeat: Callable[[], None]) -> dict[str, float]:
    """Runs in the isolated worker: CPU seconds of each decoder as ingest uses it, the least of some."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        _write(path)
        facts = probe(path)
        readers = {
            "pyav": functools.partial(_read, path, facts),
            "decord": functools.partial(_read_decord, path, facts),
        }
        cpu_s: dict[str, float] = {}
        for _ in range(REPEATS):
            for name, read in readers.items():
                heartbeat()
                began = time.process_time()
                try:
                    frames = sum(1 for _ in read())
                except Disagreement:
                    continue
                assert frames == FRAMES // 2
                cpu_s[name] = min(cpu_s.get(name, np.inf), time.process_time() - began)
    return {name: round(seconds, 4) for name, seconds in cpu_s.items()}


def _read(path: Path, facts: VideoFacts) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    sampler = FrameSampler(facts, MAX_FPS)
    return read_frames(path, facts, side=MEASURE_SIDE, sampler=sampler, report=DecodingReport())


def _read_decord(path: Path, facts: VideoFacts) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    return read_with_decord(path, facts, side=MEASURE_SIDE, sampler=FrameSampler(facts, MAX_FPS))


def _write(path: Path) -> None:
    """A camera that moves over a scene, as H.264 usually is: with B-frames."""
    noise = np.random.default_rng(0).normal(0, 1, (HEIGHT + FRAMES, WIDTH + 2 * FRAMES, 3)).astype(np.float32)
    scene = cv2.GaussianBlur(noise, (0, 0), 4)
    scene = np.clip(128 + 40 * scene / scene.std() + 4 * noise, 0, 255)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            image = np.ascontiguousarray(scene[number : number + HEIGHT, 2 * number : 2 * number + WIDTH]).astype(
                np.uint8
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
