"""The policy server against peers that flood it, leave, or speak another protocol, and against a policy that fails."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from tests.builders.fake_policy import HORIZON, FakePolicy
from tests.builders.server import LIMIT_MB, client_of, observation, raw_call, resident_mb, serving, zmtp
from vla.serving.client import PolicyServerError
from vla.serving.server import HARD_LIMIT, PolicyServer
from vla.serving.wire import from_bytes, to_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    with serving() as running:
        yield running


def test_many_requests_in_a_row_are_all_answered(server: PolicyServer) -> None:
    with client_of(server) as client:
        assert all(client.ping() for _ in range(2000))


def test_a_token_is_asked_of_every_endpoint() -> None:
    with serving(api_token="s3cret-ü", allow_kill=True) as server:
        for token in (None, "wrong", "s3cret", ""):
            with client_of(server, api_token=token) as client:
                for call in (client.ping, client.kill_server, client.get_modality_config, lambda: client.call("fly")):
                    with pytest.raises(PolicyServerError, match="Unauthorized"):
                        call()
        for token in (5, ["s3cret-ü"], b"s3cret-\xc3\xbc", {}):
            assert "Unauthorized" in raw_call(server, msgpack.packb({"endpoint": "ping", "api_token": token}))["error"]
        with client_of(server, api_token="s3cret-ü") as client:
            assert client.ping()
            client.kill_server()
        assert server._thread is not None
        server._thread.join(5)
        assert not server._thread.is_alive()
    assert server.counts["ping"] == 1 and server.counts["kill"] == 1


def test_nothing_is_decoded_for_who_has_no_token() -> None:
    """The answer is that of a wrong token, whatever else is wrong with the message, and of one that costs seconds to decode
    soon."""
    bad: list[Any] = [{"nd": True}, {"__ndarray_class__": True, "as_npy": b"x"}, [[{}] * 30_000] * 5, 7, "x" * 10**5]
    with serving(api_token="abc") as server:
        for data in bad:
            for given in ({}, {"api_token": "ab"}, {"api_token": {"abc": "abc"}}):
                answer = raw_call(server, msgpack.packb({"endpoint": "get_action", "data": data, **given}))
                assert answer == {"error": "Unauthorized: Invalid API token"}
        assert "Unauthorized" not in raw_call(server, msgpack.packb({"data": bad[0], "api_token": "abc"}))["error"]


def test_what_is_too_large_is_told_so(server: PolicyServer) -> None:
    with client_of(server) as client:
        with pytest.raises(PolicyServerError, match=r"has 0\.3 MB, this server reads at most 0\.2 MB"):
            client.call("get_action", {"x": np.zeros(300_000, np.uint8)})
        assert client.ping()  # over the same connection


def test_what_is_far_too_large_is_not_read_and_the_next_client_is_served(server: PolicyServer) -> None:
    with client_of(server, timeout_s=0.5) as client:
        with pytest.raises(TimeoutError, match=r"is it allowed to read the request's 1\.2 MB"):
            client.call("get_action", {"x": np.zeros(int(1.5e6 * LIMIT_MB * HARD_LIMIT), np.uint8)})
        assert client.ping()
    with client_of(server) as client:
        assert client.ping()


def test_a_message_in_many_frames_is_refused(server: PolicyServer) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.linger, req.rcvtimeo = 0, 5000
        req.connect(server.address)
        for frames in ([b"a"] * 3, [b"x" * 50_000] * 10, [b"", b"", b""], [b"a"] * 1000):
            req.send_multipart(frames)
            assert "error" in from_bytes(req.recv())
    with client_of(server) as client:
        assert client.ping()


def test_a_client_without_reqs_envelope_is_answered_too(server: PolicyServer) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, 5000
        dealer.connect(server.address)
        dealer.send(to_bytes({"endpoint": "ping"}))
        assert from_bytes(dealer.recv())["status"] == "ok"


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\x00" * 8, b"\xff" * 3000])
def test_who_connects_and_speaks_another_protocol_or_nothing_blocks_nobody(server: PolicyServer, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as stranger:
        stranger.sendall(said)
        with client_of(server) as client:
            assert client.ping()
            assert client.get_action(observation())[0]["arm"].shape == (2, HORIZON, 3)


def test_who_connects_by_zmq_and_asks_nothing_blocks_nobody(server: PolicyServer) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as silent:
        silent.linger = 0
        silent.connect(server.address)
        time.sleep(0.1)
        with client_of(server) as client:
            assert client.ping()


class SlowPolicy(FakePolicy):
    """Acts only when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.allowed = threading.Event(), threading.Event()

    def act_batch(self, *args: Any, **settings: Any) -> Any:
        self.asked.set()
        assert self.allowed.wait(5)
        return super().act_batch(*args, **settings)


def test_who_asks_and_leaves_before_the_answer_blocks_nobody() -> None:
    policy = SlowPolicy()
    with serving(policy) as server:
        gone = zmq.Context()
        leaving = gone.socket(zmq.REQ)
        leaving.linger = 0
        leaving.connect(server.address)
        leaving.send(to_bytes({"endpoint": "get_action", "data": {"observation": observation()}}))
        assert policy.asked.wait(5)
        gone.destroy(linger=0)
        time.sleep(0.1)
        policy.allowed.set()
        with client_of(server) as client:
            assert client.get_action(observation())[0]["arm"].shape == (2, HORIZON, 3)
    assert server.counts["gone"] == 1


def test_who_asks_much_and_takes_no_answer_blocks_nobody() -> None:
    with serving() as server, zmq.Context() as context, context.socket(zmq.DEALER) as greedy:
        greedy.linger, greedy.rcvhwm, greedy.sndtimeo = 0, 1, 0
        greedy.connect(server.address)
        asked = to_bytes({"endpoint": "get_action", "data": {"observation": observation(16)}})
        for _ in range(300):
            try:
                greedy.send_multipart([b"", asked])
            except zmq.Again:
                time.sleep(0.001)
        with client_of(server) as client:
            start = time.perf_counter()
            assert client.ping()
            assert time.perf_counter() - start < 2


class BrokenPolicy(FakePolicy):
    """Fails as it is told to."""

    result: Any = None

    def act_batch(self, *args: Any, **settings: Any) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (KeyError("x"), "KeyError"),
        (np.full((2, HORIZON, 4), np.nan), "not finite"),
        (np.zeros((2, HORIZON + 1, 4)), "modality layout"),
        (np.zeros((2, HORIZON, 2)), "modality layout"),
        (None, "modality layout"),
    ],
)
def test_a_policy_that_fails_is_an_error_and_not_the_end(result: Any, reason: str) -> None:
    policy = BrokenPolicy()
    policy.result = result
    with serving(policy) as server, client_of(server) as client:
        with pytest.raises(PolicyServerError, match=reason):
            client.get_action(observation())
        policy.result = np.zeros((2, HORIZON, 4))
        assert not client.get_action(observation())[0]["arm"].any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much came over a connection")
def test_frames_without_end_are_cut_off_before_they_fill_the_memory() -> None:
    """ZMQ checks the size of each frame, and keeps any number of frames of a message that does not end."""
    endless_frames = 400 * (b"\x03" + struct.pack(">Q", 500_000) + bytes(500_000))  # more are to follow
    with serving(api_token="abc") as server, client_of(server, api_token="abc") as client:
        before = resident_mb()
        with zmtp(server) as endless:
            endless.settimeout(200)  # of a busy machine
            with pytest.raises(OSError, match="reset|Broken pipe"):
                endless.sendall(endless_frames)
        assert resident_mb() - before < 100
        assert client.ping()  # over the connection that it had


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much came over a connection")
def test_half_messages_of_many_are_cut_off_together() -> None:
    half = b"\x03" + struct.pack(">Q", 700_000) + bytes(600_000)
    with serving() as server, client_of(server) as client, contextlib.ExitStack() as all_of_them:
        assert client.ping()
        many = [all_of_them.enter_context(zmtp(server)) for _ in range(40)]
        for raw in many:
            raw.sendall(half)
            time.sleep(0.002)
        time.sleep(0.2)
        gone = 0
        for raw in many:
            raw.recv(64 + 1000)
            raw.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                gone += raw.recv(1) == b""
        assert 0 < gone < 40
        assert client.get_action(observation())[0]["arm"].shape == (2, HORIZON, 3)


def test_a_message_whose_connection_is_gone_is_no_error(server: PolicyServer) -> None:
    """ZMQ knows no connection of it any more, and says so by an error."""
    server._inflow.took(zmq.Frame(b"x"))
    with client_of(server) as client:
        assert client.ping()
