"""The policy server: answers Isaac-GR00T's clients over ZMQ, one request after the other, and outlives bad ones.

A request is msgpack {"endpoint": name, "data": {...}, "api_token": text}; its answer is the endpoint's, or
{"error": text}. Endpoints: ping, get_action, reset, get_modality_config and, where it is allowed, kill.

Clients hold a REQ socket. The server's is a ROUTER that speaks REQ's envelope, [client, (request id), b"", message],
because a REP socket owes its next answer to whoever asked last: a message that is too large would have to be dropped
with its connection, and a client that is gone could hold up the rest.

There is no encryption. Of a message without the token no more is decoded than that field, and what is no whole message is
bounded (vla/serving/inflow.py); still, listen on the loopback address, which is the default, and for another machine prefer
a tunnel (ssh -L 5555:127.0.0.1:5555 robot).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from vla.serving.inflow import Inflow
from vla.serving.wire import ArrayForm, Dialect, peek, receive, to_bytes

log = logging.getLogger(__name__)

HARD_LIMIT = 4
"""A message of this many times the limit is not even read: ZMQ closes its connection. Up to that its sender gets an answer that says so."""
_MAX_FRAMES = 4
"""Of a message: client, request id, empty frame, request."""
_ANSWERS = 16
"""Answers that wait for each client to take them; one that takes none gets no more."""
_POLL_MS = 100


class Served(Protocol):
    """What a server needs of a policy; see `ServedPolicy`. ValueErrors become answers. `client`: ZMQ's name of who asks."""

    dialect: Dialect

    def get_action(self, data: Mapping[str, Any], client: bytes) -> Any: ...

    def reset(self, options: Mapping[str, Any] | None, client: bytes) -> dict[str, Any]: ...

    def get_modality_config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen, and whom to answer."""

    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" for all of the machine's."""
    port: int = 5555
    """0: any that is free."""
    api_token: str | None = None
    """Requests must carry it; None: nobody needs one."""
    open_without_token: bool = False
    """Serve other machines without a token."""
    max_message_mb: float = 64.0
    """Larger requests are refused, in 10^6 bytes."""
    allow_kill: bool = False
    """Let a client (with the token, where there is one) end the server."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port {self.port}: must be within 0 and 65535")
        if not self.max_message_mb > 0:
            raise ValueError(f"max_message_mb {self.max_message_mb:g}: must be more than 0")
        if self.api_token is not None and not self.api_token:
            raise ValueError("the API token is empty: give one, or none at all")
        if self.api_token is None and not self.open_without_token and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host}: other machines could command the robot: set a token, or say that nobody needs one "
                "(open_without_token)"
            )

    @property
    def max_bytes(self) -> int:
        """Largest request that is read, in bytes."""
        return int(self.max_message_mb * 1e6)


class PolicyServer:
    """Listens from its construction on; `serve` answers until `stop`, or `start` does so in a thread.

    As a context manager it starts on entry, and on exit stops and closes. `counts` holds how many requests were answered
    under each endpoint, refused ("error") and left by their client ("gone"). Raises ValueError where it cannot listen.
    """

    def __init__(self, served: Served, config: ServerConfig | None = None) -> None:
        self.served = served
        self.config = ServerConfig() if config is None else config
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, HARD_LIMIT * self.config.max_bytes)
        self._socket.setsockopt(zmq.RCVHWM, 1)  # who waits for answers asks once at a time
        self._socket.setsockopt(zmq.SNDHWM, _ANSWERS)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an answer that nobody takes is an error here, not silence
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)  # a robot that lost its network leaves no connection behind
        most = HARD_LIMIT * self.config.max_bytes
        self._inflow = Inflow(self._socket, each=2 * most, together=4 * most)  # a message, and one behind it
        host = {"localhost": "127.0.0.1", "*": "0.0.0.0"}.get(self.config.host, self.config.host)
        if ":" in host:
            self._socket.setsockopt(zmq.IPV6, 1)
            host = f"[{host}]"
        try:
            self._socket.bind(f"tcp://{host}:{self.config.port or '*'}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ValueError(
                f"cannot listen on {self.config.host} port {self.config.port}: {error}; choose another port, or an "
                "address of this machine"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        """ "tcp://host:port"."""

    @property
    def port(self) -> int:
        """Where it listens, also when any free port was asked for."""
        return int(self.address.rpartition(":")[2])

    def serve(self) -> None:
        """Answers requests until `stop` is called or a client ends it; then closes."""
        self._inflow.start(self.port)
        try:
            while not self._stop.is_set():
                if self._socket.poll(_POLL_MS):
                    self._serve_one()
        finally:
            self._inflow.stop()
            self._context.destroy()

    def start(self) -> threading.Thread:
        """`serve` in a thread."""
        self._thread = threading.Thread(target=self.serve, name="policy-server", daemon=True)
        self._thread.start()
        return self._thread

    def stop(self) -> None:
        """Ends `serve` after the request that is being answered. From any thread."""
        self._stop.set()

    def __enter__(self) -> PolicyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _serve_one(self) -> None:
        envelope, message, size = self._receive()
        answer = self._answer(message, size, envelope[0])
        try:
            self._socket.send_multipart([*envelope, answer], zmq.DONTWAIT)
        except zmq.ZMQError as error:  # gone, or it does not take its answers
            self.counts["gone"] += 1
            log.info("a client did not take its answer: %s", error)

    def _receive(self) -> tuple[list[bytes], bytes | None, int]:
        """The frames before the message, the message, and the size of all in bytes; no message where the size is above the
        limit, or where it is not one frame."""
        frames: list[bytes] = []
        size, more = 0, True
        while more:
            frame = self._socket.recv(copy=False)
            size, more = size + len(frame.buffer), bool(frame.more)
            if size <= self.config.max_bytes and len(frames) <= _MAX_FRAMES:
                frames.append(frame.bytes)
        self._inflow.took(frame)
        # the first frame is ZMQ's name for the client; REQ puts an empty frame before the message
        end = frames.index(b"", 1) + 1 if b"" in frames[1:] else 1
        rest = frames[end:]
        return frames[:end], rest[0] if len(rest) == 1 else None, size

    def _answer(self, message: bytes | None, size: int, client: bytes) -> bytes:
        form: ArrayForm | None = None
        endpoint = "error"
        try:
            if size > self.config.max_bytes:
                raise ValueError(
                    f"the message has {size / 1e6:.1f} MB, this server reads at most {self.config.max_message_mb:g} MB: send "
                    "smaller images or fewer observations at once, or start it with a larger --max-message-mb"
                )
            if message is None:
                raise ValueError("a request must be one message of a REQ socket")
            self._authorise(message)
            received = receive(message)
            form = received.array_form
            endpoint, result = self._call(received.content, client)
            packed = to_bytes(result, dialect=self.served.dialect, array_form=form)
        except ValueError as error:
            log.info("refused: %s", error)
            return self._error(str(error))
        except Exception as error:  # the policy's own trouble must not end the server
            log.exception("a request failed")
            return self._error(f"{type(error).__name__}: {error}")
        self.counts[endpoint] += 1
        return packed

    def _error(self, text: str) -> bytes:
        self.counts["error"] += 1
        return to_bytes({"error": text[:2000].encode("utf-8", "replace").decode()})

    def _call(self, request: Any, client: bytes) -> tuple[str, Any]:
        if not isinstance(request, dict):
            raise ValueError(f"a request must be a map with an 'endpoint', not a {type(request).__name__}")
        endpoint = request.get("endpoint", "get_action")  # GR00T's default
        data = {} if request.get("data") is None else request["data"]
        if not isinstance(data, dict):
            raise ValueError(f"the data of a request must be a map, not a {type(data).__name__}")
        if endpoint == "ping":
            return "ping", {"status": "ok", "message": "Server is running"}
        if endpoint == "get_action":
            return "get_action", self.served.get_action(data, client)
        if endpoint == "reset":
            options = data.get("options")
            if options is not None and not isinstance(options, dict):
                raise ValueError(f"reset: options must be a map, not a {type(options).__name__}")
            return "reset", self.served.reset(options, client)
        if endpoint == "get_modality_config":
            return "get_modality_config", dict(self.served.get_modality_config())
        if endpoint == "kill":
            if not self.config.allow_kill:
                raise ValueError("kill: this server was not started with --allow-kill")
            self.stop()
            return "kill", {"status": "ok", "message": "Server stops"}
        known = "ping, get_action, reset, get_modality_config, kill"
        named = repr(endpoint[:80]) if isinstance(endpoint, str) else f"a {type(endpoint).__name__}"
        raise ValueError(f"Unknown endpoint: {named}; this server has {known}")

    def _authorise(self, message: bytes) -> None:
        """Raises ValueError where the message lacks the token; nothing else of it is decoded before."""
        wanted = self.config.api_token
        if wanted is None:
            return
        given = peek(message, "api_token")
        # compared in a time that does not tell how much of it was right
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), wanted.encode()):
            raise ValueError("Unauthorized: Invalid API token")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
