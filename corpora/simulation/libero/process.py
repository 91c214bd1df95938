"""This side of the LIBERO environment: processes of its Python do an order each and tell what they did, message by message.

An order is a map for JSON: its `module` has `work(order, say)` (see corpora/simulation/libero/channel.py). Arrays travel as .npz
files in a folder that is gone afterwards.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = "GIZA_LIBERO"
"""Variable that names the folder of the environment; without it, where `make libero` puts it."""
WORLD = "corpora.simulation.libero.world"
"""Module of the simulator, there."""
ROOT = Path(__file__).resolve().parents[3]
_START = (
    "import sys; sys.path.append(sys.argv[1]); from corpora.simulation.libero.channel import main; sys.exit(main())"
)
"""Giza's own modules are found behind all that the environment has."""


def libero_folder() -> Path:
    """Of the environment, whether it is there or not."""
    return Path(os.environ.get(ENVIRONMENT) or Path(os.environ.get("TMPDIR") or "/tmp") / "giza-libero").expanduser()


def libero_python() -> Path:
    """The environment's Python. Raises ValueError where there is none."""
    python = libero_folder() / "bin" / "python"
    if not python.is_file():
        raise ValueError(
            f"no LIBERO environment in '{libero_folder()}': build it with make libero (two gigabytes), or name its folder in "
            f"{ENVIRONMENT}"
        )
    return python


def told_by(orders: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Does each order in a process of its own and yields their messages as they come, with their arrays loaded.

    Raises ValueError for what a worker refuses, and OSError where one dies or cannot go on; all processes are ended then, and
    when the generator is closed.
    """
    python, come = libero_python(), queue.Queue[tuple[int, dict[str, Any] | None]]()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="giza-libero-"))
        workers = []
        for number, order in enumerate(orders):
            given = {"world": WORLD, **order, "folder": folder, "number": number}
            words = stack.enter_context(tempfile.TemporaryFile())
            worker = subprocess.Popen(
                [python, "-P", "-c", _START, ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env=_environment(),
            )
            workers.append((worker, words))
            stack.callback(_ended, worker)
            assert worker.stdin is not None
            with suppress(BrokenPipeError):  # its own last words say why
                worker.stdin.write(json.dumps(given) + "\n")
                worker.stdin.flush()  # it stays open: its end tells the worker that nobody listens any more
            threading.Thread(target=_listen, args=(number, worker, come), daemon=True).start()
        for _ in orders:
            while (heard := come.get())[1] is not None:
                message = heard[1]
                if "error" in message:
                    raise OSError(message["error"]) if message["machine"] else ValueError(message["error"])
                yield _with_arrays(message)
            worker, words = workers[heard[0]]
            if worker.wait():
                words.seek(0)
                last = (words.read().decode("utf-8", "replace").strip().splitlines() or ["nothing said"])[-1]
                raise OSError(f"a process of LIBERO's ended with status {worker.returncode} ({last})")


def _environment() -> dict[str, str]:
    """Of a worker: nothing of this process' Python, and software rendering unless the user has chosen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {"MUJOCO_GL": "osmesa", "OMP_NUM_THREADS": "1", **kept}


def _listen(number: int, worker: subprocess.Popen[str], come: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.endswith("\n"):  # else it died in the middle of it
            come.put((number, json.loads(line)))
    come.put((number, None))


def _with_arrays(message: dict[str, Any]) -> dict[str, Any]:
    if path := message.pop("file", None):
        with np.load(path) as arrays:
            message |= {name: arrays[name] for name in arrays.files}
        os.unlink(path)
    return message


def _ended(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
