"""A server of a fake policy, clients and requests, for the tests of the server."""

from __future__ import annotations

import io
import os
import socket
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

from tests.builders.fake_policy import SIZE, FakePolicy, expected
from vla.serving.client import PolicyClient
from vla.serving.groot import ServedPolicy
from vla.serving.server import PolicyServer, ServerConfig

LIMIT_MB = 0.2
KEY = "annotation.human.action.task_description"


def served(policy: FakePolicy | None = None, **settings: Any) -> ServedPolicy:
    return ServedPolicy(policy or FakePolicy(), "gr1", **settings)  # type: ignore[arg-type]


def serving(policy: FakePolicy | None = None, **settings: Any) -> PolicyServer:
    return PolicyServer(served(policy), ServerConfig(port=0, max_message_mb=LIMIT_MB, **settings))


def client_of(server: PolicyServer, **settings: Any) -> PolicyClient:
    return PolicyClient(port=server.port, **{"timeout_s": 5.0, **settings})


def observation(size: int = 2, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 255, (2, size, 2, SIZE, SIZE, 3), np.uint8)
    return {
        "video": {"ego_view": images[0], "wrist": images[1]},
        "state": {
            "arm": draw.random((size, 1, 3)).astype(np.float32),
            "hand": draw.random((size, 1, 2)).astype(np.float32),
        },
        "language": {KEY: [["go" * (i + 1)] for i in range(size)]},
    }


def flat(nested: dict[str, Any]) -> dict[str, Any]:
    names = {f"{kind}.{name}": value for kind in ("video", "state") for name, value in nested[kind].items()}
    return {**names, KEY: [text[0] for text in nested["language"][KEY]]}


def by_hand(nested: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What the fake policy does with an observation, by the policy's order of cameras (wrist first) and dimensions."""
    images = np.stack([nested["video"]["wrist"], nested["video"]["ego_view"]], 1).transpose(0, 1, 2, 5, 3, 4)
    state = np.concatenate([nested["state"]["arm"], nested["state"]["hand"]], -1)[:, 0]
    return expected(images, [text[0] for text in nested["language"][KEY]], state)


def raw_call(server: PolicyServer, message: bytes, *, correlate: bool = False) -> Any:
    """What comes back over a plain REQ socket, not decoded by our own code."""
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger, req.rcvtimeo = 0, 5000
        if correlate:
            req.setsockopt(zmq.REQ_CORRELATE, 1)
        req.connect(server.address)
        req.send(message)
        return msgpack.unpackb(req.recv())


def npy(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def zmtp(server: PolicyServer, kind: bytes = b"DEALER") -> socket.socket:
    """A connection that ZMQ takes for a client's, to send frames by hand."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    raw.sendall(bytes([4, len(ready)]) + ready)
    return raw


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
