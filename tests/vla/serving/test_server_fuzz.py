"""The policy server against messages that nobody should send: each is answered, and the next good client is served."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import zmq

from tests.builders.fake_policy import FakePolicy
from tests.builders.fuzz import fuzzed, half_sent
from tests.builders.server import by_hand, client_of, observation, resident_mb, serving

_AT_ONCE = 10


class Lenient(FakePolicy):
    """Takes masked frames too."""

    def act_batch(self, images: Any, image_mask: Any, *given: Any, **settings: Any) -> Any:
        return super().act_batch(images, torch.ones_like(image_mask), *given, **settings)


@pytest.mark.parametrize("token", [None, "abc"])
@pytest.mark.parametrize("count", [500, pytest.param(50_000, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])])
def test_whatever_comes_is_answered_and_good_clients_are_served(
    count: int, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """No message meets an error that is not told as the client's own, and none stays in memory."""
    rng, asked = np.random.default_rng(count), observation()
    wanted = by_hand(asked)[..., :3]
    began, before, highest, answered = time.monotonic(), 0.0, 0.0, 0
    with (
        serving(Lenient(), api_token=token) as server,
        client_of(server, api_token=token) as good,
        zmq.Context() as context,
        contextlib.ExitStack() as opened,
    ):
        dealers = [opened.enter_context(context.socket(zmq.DEALER)) for _ in range(5)]
        for dealer in dealers:
            dealer.linger, dealer.rcvtimeo = 0, 10_000
            dealer.connect(server.address)
        for number in range(count // _AT_ONCE):
            dealer = dealers[number % len(dealers)]
            sent = [fuzzed(rng) for _ in range(_AT_ONCE)]
            for frames in sent:
                dealer.send_multipart([b"", *frames] if rng.random() < 0.9 else frames)
            for _ in sent:
                answer = msgpack.unpackb(dealer.recv_multipart()[-1], strict_map_key=False)
                answered += isinstance(answer, dict | list)
            if number % 5 == 0:
                half_sent(rng, server)
            if number % 25 == 0:
                np.testing.assert_allclose(good.get_action(asked)[0]["arm"], wanted)
                highest = max(highest, resident_mb())
            if number == 30:
                before = resident_mb()
        after = resident_mb()
    assert answered == count and server.counts["error"] > count / 3
    assert not [record.getMessage() for record in caplog.records if record.exc_info], (
        "an error that is the server's own"
    )
    assert highest - before < 100
    print(
        f"{count} messages in {time.monotonic() - began:.0f} s, {before:.0f} -> {after:.0f} MB, at most {highest:.0f}"
    )
    print(dict(server.counts))
