"""A client of the policy server, with time limits, in the protocol of Isaac-GR00T."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zmq

from vla.serving.wire import Dialect, from_bytes, to_bytes


class PolicyServerError(RuntimeError):
    """The server's answer was an error; its text is the server's."""


class PolicyClient:
    """Calls of a policy server, one at a time; not to be shared between threads.

    Raises PolicyServerError where the server refuses, and TimeoutError where it does not answer within `timeout_s`
    seconds; the next call is then made over a new connection.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 5555,
        *,
        api_token: str | None = None,
        timeout_s: float = 15.0,
        dialect: Dialect = "n1.6",
    ) -> None:
        """`dialect`: "n1.5" sends observations flat and without options, "n1.7" writes arrays in the later form."""
        self.address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self.api_token, self.timeout_s = api_token, timeout_s
        self.dialect: Dialect = dialect
        self._context = zmq.Context()
        self._socket = self._connect()

    def ping(self) -> bool:
        """Whether the server answers in time."""
        try:
            self.call("ping")
        except TimeoutError:
            return False
        return True

    def get_action(
        self, observation: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Named chunks of actions, float32 [B, H, D] each, and what the server says of them (step_s: seconds between
        the steps of a chunk). The observation's forms: vla/serving/groot.py."""
        if self.dialect == "n1.5":
            return self.call("get_action", observation), {}
        action, info = self.call("get_action", {"observation": observation, "options": options})
        return action, info

    def reset(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A new episode; {"seed": n} makes its actions repeatable."""
        answer: dict[str, Any] = self.call("reset", {"options": options})
        return answer

    def get_modality_config(self) -> dict[str, Any]:
        """A `ModalityConfig` for video, state, action and language."""
        answer: dict[str, Any] = self.call("get_modality_config")
        return answer

    def kill_server(self) -> None:
        """Ends a server that allows it."""
        self.call("kill")

    def call(self, endpoint: str, data: Mapping[str, Any] | None = None) -> Any:
        """The answer of any endpoint."""
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = dict(data)
        if self.api_token is not None:
            request["api_token"] = self.api_token
        message = to_bytes(request, dialect=self.dialect)
        try:
            self._socket.send(message)
            answer = from_bytes(self._socket.recv())
        except zmq.Again as error:
            self._socket.close(linger=0)  # REQ would wait for that answer for ever
            self._socket = self._connect()
            raise TimeoutError(
                f"{self.address} did not answer {endpoint} within {self.timeout_s:g} s: is the server up, and is it "
                f"allowed to read the request's {len(message) / 1e6:.1f} MB?"
            ) from error
        if isinstance(answer, dict) and "error" in answer:
            raise PolicyServerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._context.destroy(linger=0)

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.REQ)
        for option in (zmq.SNDTIMEO, zmq.RCVTIMEO):
            socket.setsockopt(option, round(1000 * self.timeout_s))
        socket.setsockopt(zmq.LINGER, 0)
        if "[" in self.address:
            socket.setsockopt(zmq.IPV6, 1)
        socket.connect(self.address)
        return socket
