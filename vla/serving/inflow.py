"""What comes in and is no whole message yet. ZMQ keeps it in memory: of each frame it checks the size, but of frames without end,
or of many half messages, it keeps all. Who sends too much of that is cut off; for others nothing changes.

Linux says how many bytes came over each connection; elsewhere nobody is cut off.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_LOOK_MS = 20
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_RECEIVED = 128
"""Where bytes_received stands in Linux's struct tcp_info."""
_KERNEL_BYTES = 8_000_000
"""May wait in the system's buffer of a connection; they count as received, but are not in our memory."""


class Inflow:
    """Watches a bound ZMQ socket's connections in a thread of its own, between `start` and `stop`."""

    def __init__(self, watched: zmq.Socket[bytes], *, each: int, together: int) -> None:
        """`each`: bytes of one connection that are no whole message yet; `together`: of all of them."""
        self.each, self.together, self.port = each + _KERNEL_BYTES, together + _KERNEL_BYTES, 0
        self._taken: dict[int, int] = {}
        """File descriptor of a connection -> bytes that came over it and were taken as whole messages."""
        self._monitor = watched.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="policy-server-inflow", daemon=True)

    def start(self, port: int) -> None:
        """`port`: that the socket is bound to."""
        self.port = port
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def took(self, frame: zmq.Frame) -> None:
        """A message that ends with this frame is whole and was taken."""
        try:
            number = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # of a connection that is gone
            return
        received = self._ask(number, _received)
        if received is not None:
            self._taken[number] = received

    def _watch(self) -> None:
        while not self._stop.is_set():
            if self._monitor.poll(_LOOK_MS):
                event = recv_monitor_message(self._monitor)
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._taken[event["value"]] = 0
                else:
                    self._taken.pop(event["value"], None)
            self._look()

    def _look(self) -> None:
        held = {
            number: received - taken
            for number, taken in list(self._taken.items())
            if (received := self._ask(number, _received)) is not None
        }
        while held and (max(held.values()) > self.each or sum(held.values()) > self.together):
            worst = max(held, key=lambda number: held[number])
            log.warning("a client sent %.1f MB that are no message: it is cut off", held.pop(worst) / 1e6)
            self._ask(worst, lambda connection: connection.shutdown(socket.SHUT_RDWR))

    def _ask(self, number: int, what: Callable[[socket.socket], _T]) -> _T | None:
        """Of a connection; None of one that is gone, and whose number may be another file's by now."""
        try:
            connection = socket.socket(fileno=number)
        except (OSError, ValueError):
            self._taken.pop(number, None)
            return None
        try:
            if connection.getsockname()[1] == self.port:
                return what(connection)
        except OSError:
            pass
        finally:
            connection.detach()  # ZMQ closes it
        self._taken.pop(number, None)
        return None


def _received(connection: socket.socket) -> int:
    """Bytes that came over it."""
    if _TCP_INFO is None:
        return 0
    told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED + 8)
    return int(struct.unpack_from("=Q", told, _RECEIVED)[0]) if len(told) == _RECEIVED + 8 else 0
