"""Messages that a server should not get: real ones with something wrong, and what never was one."""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from tests.builders.server import flat, npy, observation, zmtp
from vla.serving.server import PolicyServer
from vla.serving.wire import to_bytes

Rng = np.random.Generator


def _real() -> list[bytes]:
    asked, few = observation(), observation(1)
    one = {key: value[0] for key, value in flat(few).items()}
    calls: list[tuple[str, Any]] = [
        ("get_action", {"observation": asked, "options": None}),
        ("get_action", {"observation": few, "options": {"since_start_s": 0.1}}),
        ("get_action", flat(few)),
        ("get_action", one),
        ("ping", None),
        ("reset", {"options": {"seed": 3}}),
        ("get_modality_config", {}),
    ]
    return [
        to_bytes({"endpoint": name, "data": data, "api_token": "abc"}, dialect=dialect)
        for name, data in calls
        for dialect in ("n1.5", "n1.7")
    ]


REAL = _real()
OBJECTS = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n"
    + pickle.dumps([1])
)
HUGE = [
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\x81\xa4data\xdd\xff\xff\xff\xff", b"\x91" * 2000, b"\x81\xa1a" * 2000, b"\xdc\xff\xff" * 50,
]  # fmt: skip


def _header(rng: Rng) -> dict[str, Any]:
    """An array whose header claims what is not there."""
    shape = rng.choice([0, 1, 2**31, 2**62, -1, 5], rng.integers(0, 6)).tolist()
    if rng.random() < 0.5:
        kind = str(rng.choice(["<f4", "|O", "<U99999999", "<f99", "V8", "<M8[s]", "f4,f4", "|S0", "x" * 50]))
        return {
            b"nd": True,
            b"type": kind,
            b"kind": rng.choice([b"", b"O", b"V"]),
            b"shape": shape,
            b"data": rng.bytes(8),
        }
    text = f"{{'descr': '<f4', 'fortran_order': {bool(rng.integers(2))}, 'shape': {tuple(shape)}, }}".encode()
    return {
        "__ndarray_class__": True,
        "as_npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rng.bytes(8),
    }


def _junk(rng: Rng) -> Any:
    shape = tuple(rng.integers(0, 4, rng.integers(0, 7)).tolist())
    kind = str(rng.choice(["u1", "f2", "f4", "f8", "i8", "?", "c8", "<U3"]))
    array = (rng.random(shape) * 3).astype(kind) if kind[-1] != "3" else np.full(shape, "abc")
    choices: list[Callable[[], Any]] = [
        lambda: None, lambda: True, lambda: -1, lambda: 2**64 - 1, lambda: float("nan"), lambda: "é" * 3000, lambda: rng.bytes(9),
        list, dict, lambda: [[[]]] * 5, lambda: {b"x": {1: [None]}}, lambda: [{}] * 40_000,
        lambda: {"__ndarray_class__": True, "as_npy": OBJECTS}, lambda: {"__ModalityConfig_class__": True, "as_json": "[" * 5000},
        lambda: msgpack.ExtType(int(rng.integers(128)), b"x" * 9), lambda: _header(rng), lambda: _header(rng), lambda: npy(array),
        lambda: npy(array), lambda: npy(np.full((1, 1, 3), rng.choice([np.nan, np.inf, 1e30]), np.float32)),
    ]  # fmt: skip
    return choices[rng.integers(len(choices))]()


def _replaced(rng: Rng) -> list[bytes]:
    """A real request with junk somewhere."""
    request = msgpack.unpackb(REAL[rng.integers(len(REAL))], strict_map_key=False)
    place: Any = request
    while isinstance(place, dict) and place:
        key = list(place)[rng.integers(len(place))]
        if not isinstance(place[key], dict) or rng.random() < 0.4:
            place[key if rng.random() < 0.9 else "other"] = _junk(rng)
            break
        place = place[key]
    return [msgpack.packb(request)]


def _mutated(rng: Rng) -> list[bytes]:
    """A real message with some bytes changed, cut out, repeated, or of another one."""
    message = bytearray(REAL[rng.integers(len(REAL))])
    for _ in range(rng.integers(1, 6)):
        at, to = sorted(rng.integers(0, len(message) + 1, 2).tolist())
        change = rng.integers(5)
        if change == 0 and message:
            for place in rng.integers(0, len(message), 4).tolist():
                message[place] = int(rng.integers(256))
        elif change == 1:
            del message[at : at + int(rng.integers(1, 20))]
        elif change == 2:
            message[at:at] = message[at : min(to, at + 200)]
        elif change == 3:
            message[at:at] = HUGE[rng.integers(len(HUGE))][:6]
        else:
            message[at:] = REAL[rng.integers(len(REAL))][at:]
    return [bytes(message)]


def _frames(rng: Rng) -> list[bytes]:
    """Of many frames."""
    return [rng.bytes(rng.integers(0, 3)) for _ in range(rng.integers(0, 30))] + [REAL[rng.integers(len(REAL))]]


KINDS: list[Callable[[Rng], list[bytes]]] = [
    _replaced, _replaced, _mutated, _mutated, _frames, lambda rng: [rng.bytes(rng.integers(0, 300))],
    lambda rng: [HUGE[rng.integers(len(HUGE))] + rng.bytes(rng.integers(0, 9))], lambda rng: [REAL[rng.integers(len(REAL))]],
]  # fmt: skip


def fuzzed(rng: Rng) -> list[bytes]:
    """The frames of one message."""
    return KINDS[rng.integers(len(KINDS))](rng)


def half_sent(rng: Rng, server: PolicyServer) -> None:
    """Connects, speaks rubbish or sends half of something, and leaves."""
    ways: list[Callable[[socket.socket], None]] = [
        lambda raw: raw.sendall(rng.bytes(rng.integers(1, 200))),
        lambda raw: raw.sendall(b"\x02" + struct.pack(">Q", (10**5, 2**31, 2**62, 2**64 - 1)[rng.integers(4)])),
        lambda raw: raw.sendall(b"\x01\x00\x00\xff" + REAL[0][:200]),
        lambda raw: raw.sendall(bytes([int(rng.choice([1, 4])), 100]) + rng.bytes(100)),
        lambda raw: None,
    ]
    open_by = zmtp if rng.random() < 0.7 else lambda to: socket.create_connection(("127.0.0.1", to.port), 5)
    with contextlib.suppress(OSError), open_by(server) as raw:
        ways[rng.integers(len(ways))](raw)
