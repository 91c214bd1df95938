"""The policy server against clients that speak GR00T's protocol, and requests that are wrong."""

from __future__ import annotations

import io
import json
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from corpora.video.image import fit_square
from tests.builders.fake_policy import HORIZON, MODALITY, SIZE, FakePolicy
from tests.builders.server import KEY, by_hand, client_of, flat, npy, observation, raw_call, served, serving
from vla.serving.client import PolicyClient, PolicyServerError
from vla.serving.groot import MAX_INSTRUCTION
from vla.serving.modality_layout import ModalityLayout, VectorPart, layout_of
from vla.serving.server import PolicyServer, ServerConfig
from vla.serving.wire import ModalityConfig, to_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    with serving() as running:
        yield running


def test_nested_observations_reach_the_policy_in_its_own_order(server: PolicyServer) -> None:
    asked = observation()
    with client_of(server) as client:
        action, info = client.get_action(asked, {"ignored": 1})
    assert list(action) == ["arm", "gripper"]
    assert action["arm"].shape == (2, HORIZON, 3) and action["arm"].dtype == np.float32
    np.testing.assert_allclose(np.concatenate([action["arm"], action["gripper"]], -1), by_hand(asked))
    assert info["step_s"] == 0.05 and info["inference_s"] >= 0


def test_flat_observations_of_a_later_client_get_flat_names(server: PolicyServer) -> None:
    asked = observation()
    with client_of(server) as client:
        action, _ = client.get_action(flat(asked))
    np.testing.assert_allclose(np.concatenate([action["action.arm"], action["action.gripper"]], -1), by_hand(asked))


def test_an_n15_client_is_answered_by_a_map(server: PolicyServer) -> None:
    asked = observation()
    with client_of(server, dialect="n1.5") as client:
        batched, _ = client.get_action(flat(asked))
        one = flat(observation(1))
        single, _ = client.get_action({key: value[0] for key, value in one.items()})
        listed, _ = client.get_action({key: value if key == KEY else value[0] for key, value in one.items()})
    np.testing.assert_allclose(batched["action.arm"], by_hand(asked)[..., :3])
    assert batched["action.gripper"].shape == (2, HORIZON, 1)
    assert single["action.arm"].shape == (HORIZON, 3)
    assert single["action.gripper"].shape == (HORIZON,)  # as GR00T N1.5 squeezes it
    np.testing.assert_allclose(single["action.gripper"], by_hand(observation(1))[0, :, 3])
    np.testing.assert_array_equal(single["action.arm"], listed["action.arm"])


@pytest.mark.parametrize("correlate", [False, True])
def test_a_client_written_by_hand(server: PolicyServer, correlate: bool) -> None:
    asked = flat(observation())
    data = {key: npy(value) if isinstance(value, np.ndarray) else value for key, value in asked.items()}
    answer = raw_call(server, msgpack.packb({"endpoint": "get_action", "data": data}), correlate=correlate)
    arm = np.load(io.BytesIO(answer["action.arm"]["as_npy"]), allow_pickle=False)
    np.testing.assert_allclose(arm, by_hand(observation())[..., :3])
    default = raw_call(server, msgpack.packb({"data": data}))  # GR00T's default endpoint
    assert default == answer


def test_arrays_are_answered_in_the_form_they_came_in(server: PolicyServer) -> None:
    request = {"endpoint": "get_action", "data": {"observation": observation(), "options": None}}
    action, _ = raw_call(server, to_bytes(request, dialect="n1.7"))
    assert action["arm"][b"nd"] is True and action["arm"][b"type"] == "<f4"
    arm = np.frombuffer(action["arm"][b"data"], "<f4").reshape(action["arm"][b"shape"])
    np.testing.assert_allclose(arm, by_hand(observation())[..., :3])


def test_ping_and_reset_answer_as_groots_server_does(server: PolicyServer) -> None:
    assert raw_call(server, msgpack.packb({"endpoint": "ping"})) == {"status": "ok", "message": "Server is running"}
    assert raw_call(server, msgpack.packb({"endpoint": "reset", "data": {"options": None}})) == {}


@pytest.mark.parametrize("nested", [True, False])
def test_a_camera_that_is_not_sent_is_masked_and_told_once(nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    """M2: as in training data that lack it; its place was not kept."""
    asked, adapter = observation(), served()
    del asked["video"]["wrist"]
    for _ in range(2):
        parsed = adapter.parse(asked if nested else flat(asked), nested=nested)
        assert parsed.image_mask[:, :, -1].tolist() == [[False, True]] * 2  # the policy's first camera is the wrist's
        assert not parsed.images[:, 0].any() and parsed.images[:, 1].any()
    assert caplog.text.count("camera 'wrist' is not sent: it is masked") == 1


def test_reset_with_a_seed_repeats_the_noise() -> None:
    policy = FakePolicy()
    with serving(policy) as server, client_of(server) as client:
        for _ in range(2):
            client.reset({"seed": 5})
            client.get_action(observation())
            client.get_action(observation())
        client.reset({"seed": 6})
        client.get_action(observation())
        with pytest.raises(PolicyServerError, match="seed"):
            client.reset({"seed": "five"})
    assert policy.noise[:2] == policy.noise[2:4]
    assert len(set(policy.noise)) == 3


def test_who_else_is_served_changes_no_clients_noise() -> None:
    alone, beside = FakePolicy(), FakePolicy()
    with serving(alone) as server, client_of(server) as client:
        client.reset({"seed": 5})
        for _ in range(4):
            client.get_action(observation())
    with serving(beside) as server, client_of(server) as client, client_of(server) as other:
        client.reset({"seed": 5})
        mine = []
        for _ in range(4):
            client.get_action(observation())
            mine.append(beside.noise[-1])
            other.get_action(observation())
            other.reset()
    assert mine == alone.noise and len(set(mine)) == 4
    with serving(plain := FakePolicy()) as server, client_of(server) as client, client_of(server) as other:
        for each in (client, client, other, other):
            each.get_action(observation())
    assert plain.noise[:2] == plain.noise[2:]


def test_places_of_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.serving.groot.MAX_CLIENTS", 2)
    adapter = served(policy := FakePolicy())
    for client in (b"a", b"b", b"a", b"c", b"a", b"b"):  # c takes the place of b, not of a
        adapter.get_action({"observation": observation()}, client)
    a, b, a2, c, a3, b2 = policy.noise
    assert a == b == c == b2 and len({a, a2, a3}) == 3


def test_modality_config(server: PolicyServer) -> None:
    with client_of(server) as client:
        config = client.get_modality_config()
    assert config == {
        "video": ModalityConfig((-5, 0), ("wrist", "ego_view")),
        "state": ModalityConfig((0,), ("hand", "arm")),
        "action": ModalityConfig((0, 1, 2), ("arm", "gripper")),
        "language": ModalityConfig((0,), (KEY,)),
    }


def test_modality_config_for_n15_clients_has_json_text_and_long_names() -> None:
    adapter = served(dialect="n1.5")
    message = msgpack.unpackb(to_bytes(adapter.get_modality_config(), dialect="n1.5"))
    assert json.loads(message["action"]["as_json"])["modality_keys"] == ["action.arm", "action.gripper"]
    assert json.loads(message["video"]["as_json"]) == {
        "delta_indices": [-5, 0],
        "modality_keys": ["video.wrist", "video.ego_view"],
    }


def changed(path: str, value: Any, size: int = 2) -> dict[str, Any]:
    """An observation with one entry replaced, or removed where the value is None."""
    asked = observation(size)
    kind, _, name = path.partition("/")
    if not name:
        asked[kind] = value
    elif value is None:
        del asked[kind][name]
    else:
        asked[kind][name] = value
    return {"endpoint": "get_action", "data": {"observation": asked, "options": None}}


def renamed(camera: str, name: str) -> dict[str, Any]:
    asked = changed(f"video/{name}", observation(2)["video"][camera])
    del asked["data"]["observation"]["video"][camera]
    return asked


def pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "empty": (b"", "not a message"),
    "rubbish": (b"\x00\xff rubbish", "not a message"),
    "cut off": (to_bytes({"endpoint": "ping"})[:-1], "not a message"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07rubbish\x94.", "not a message"),
    "a list": ([1, 2], "must be a map"),
    "a number": (3, "must be a map"),
    "unknown endpoint": ({"endpoint": "fly"}, "Unknown endpoint: 'fly'; this server has ping"),
    "endpoint is a map": ({"endpoint": {}}, "Unknown endpoint"),
    "data is a list": ({"endpoint": "get_action", "data": [1]}, "data of a request must be a map"),
    "no data": ({"endpoint": "get_action"}, r"video\.wrist is missing; the observation has \[\]"),
    "observation is text": ({"endpoint": "get_action", "data": {"observation": "x"}}, "must be a map of names"),
    "options are a list": ({"endpoint": "reset", "data": {"options": [1]}}, "options must be a map"),
    "kill": ({"endpoint": "kill"}, "not started with --allow-kill"),
    "no video": (changed("video", {}), r"video\.wrist is missing"),
    "video is a list": (changed("video", [1]), r"video\.wrist is missing"),
    "misnamed camera": (renamed("ego_view", "eye"), r"video\.ego_view is missing.*\['eye', 'wrist'\]"),
    "images are text": (changed("video/wrist", "png"), r"video\.wrist: a str; must be a numpy array"),
    "images are floats": (changed("video/wrist", pixels(2, 2, 6, 6, 3, dtype=np.float32)), "must be uint8 images"),
    "no batch axis": (changed("video/wrist", pixels(2, 6, 6, 3)), "must be uint8 images"),
    "one frame": (changed("video/wrist", pixels(2, 1, 6, 6, 3)), r"must be uint8 images \[2, 2,"),
    "grey": (changed("video/wrist", pixels(2, 2, 6, 6, 1)), "RGB"),
    "no pixels": (changed("video/wrist", pixels(2, 2, 0, 6, 3)), "without pixels"),
    "another batch": (changed("video/ego_view", pixels(3, 2, 6, 6, 3)), r"video\.ego_view: uint8 \[3"),
    "no batch": (changed("video/wrist", pixels(0, 2, 6, 6, 3)), "0 observations"),
    "large batch": (changed("video/wrist", pixels(17, 2, 6, 6, 3)), "17 observations; 1 to 16"),
    "no state": (changed("state", None), r"state\.arm is missing"),
    "state is a list": (changed("state/arm", [[0.0] * 3]), r"state\.arm: a list"),
    "wide state": (changed("state/arm", np.zeros((2, 1, 4), np.float32)), r"state\.arm: .*must be float32 \[2, 1, 3\]"),
    "integer state": (changed("state/arm", np.zeros((2, 1, 3), np.int64)), "must be float32"),
    "state of texts": (changed("state/arm", np.array([[["a", "b", "c"]]] * 2)), "must be float32"),
    "state is nan": (changed("state/arm", np.full((2, 1, 3), np.nan, np.float32)), r"state\.arm: not finite"),
    "state overflows": (changed("state/arm", np.full((2, 1, 3), 1e300)), r"state\.arm: not finite"),
    "no language": (changed("language", None), "instruction is missing"),
    "instruction is a number": (changed(f"language/{KEY}", [[1], [2]]), "int in the place of a text"),
    "instruction is a map": (changed(f"language/{KEY}", {"a": 1}), r"must be 2 text\(s\)"),
    "one of two instructions": (changed(f"language/{KEY}", [["go"]]), r"must be 2 text\(s\)"),
    "a book": (changed(f"language/{KEY}", [["x" * (MAX_INSTRUCTION + 1)]] * 2), "characters; at most"),
    "array of objects": (
        msgpack.packb(
            {"endpoint": "get_action", "data": {"x": {b"nd": True, b"type": "|O", b"kind": b"O", b"data": b""}}}
        ),
        "objects",
    ),
}


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
def test_a_bad_request_is_told_why_and_the_next_one_is_served(server: PolicyServer, name: str) -> None:
    request, reason = BAD_REQUESTS[name]
    answer = raw_call(server, request if isinstance(request, bytes) else to_bytes(request))
    assert list(answer) == ["error"]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(answer["error"])
    with client_of(server) as client:
        assert client.get_action(observation())[0]["arm"].shape == (2, HORIZON, 3)


JUNK: list[Any] = [None, True, -1, 1.5, "x", b"x", [], [None], [[1]], {}, {b"a": 1}, {"x": []}]
JUNK += [
    np.zeros(shape, kind) for kind in (np.uint8, np.float32, "<U2") for shape in ((), (0,), (2,), (2, 0, 1), (1,) * 7)
]


def test_junk_in_any_place_is_a_value_error() -> None:
    adapter, refused, asked = served(), 0, observation()
    for form in (asked, flat(asked)):
        for key, value in form.items():
            for junk in JUNK:
                changes: list[dict[Any, Any]] = [{key: junk}, {junk if isinstance(junk, bytes | str) else "y": value}]
                if isinstance(value, dict):
                    changes += [{key: {**value, name: junk}} for name in value]
                for change in changes:
                    try:
                        adapter.get_action({"observation": {**form, **change}})
                    except ValueError:
                        refused += 1
    assert refused > 300


def test_what_is_refused_is_not_spelled_out_first(server: PolicyServer) -> None:
    """A few megabytes that become lists or text take many times as much."""
    large, adapter = np.zeros(10**6, np.uint8), served()
    texts = np.full(10**6, "abc")
    tracemalloc.start()
    for refused in (
        lambda: adapter.get_action({"observation": observation(), "options": {"since_start_s": large}}),
        lambda: adapter.get_action({"observation": {**observation(), "language": {KEY: texts}}}),
        lambda: adapter.reset({"seed": bytes(10**6)}),
        lambda: server._call({"endpoint": bytes(10**6)}, b""),
    ):
        with pytest.raises(ValueError, match="must be|Unknown"):
            refused()
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_images_of_another_size_are_made_square_as_in_training(fit: Any) -> None:
    asked, large = observation(), observation()
    for name, images in asked["video"].items():
        large["video"][name] = images.repeat(2, 2).repeat(3, 3)
        squared = [fit_square(frame, SIZE, fit) for frame in large["video"][name].reshape(-1, 2 * SIZE, 3 * SIZE, 3)]
        asked["video"][name] = np.stack(squared).reshape(images.shape)
    given = served(fit=fit).get_action({"observation": large})[0]
    np.testing.assert_allclose(given["arm"], by_hand(asked)[..., :3])


def test_images_are_made_square_as_the_policy_knows_them_to_be() -> None:
    policy = FakePolicy()
    assert served(policy).fit == "stretch"
    policy.facts.squared_by = "crop"
    assert served(policy).fit == served(policy, fit="crop").fit == "crop"
    with pytest.raises(ValueError, match="fit 'stretch': pictures of 'gr1' were 'crop' in training; leave it out"):
        served(policy, fit="stretch")


def test_a_layout_survives_json() -> None:
    layout = layout_of(FakePolicy().embodiment("gr1"))  # type: ignore[arg-type]
    assert ModalityLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_without_a_layout_the_parts_are_those_of_the_action_spec() -> None:
    policy = FakePolicy(modality=None)
    layout = layout_of(policy.embodiment("gr1"))  # type: ignore[arg-type]
    assert layout.cameras == ("w", "ego")
    assert layout.state == (VectorPart("claw", 3, 5), VectorPart("body", 0, 3))
    assert layout.action == (VectorPart("claw", 3, 4), VectorPart("body", 0, 3))
    policy.facts.action_space.parts[0].state_dims = None  # the state holds more than what is acted on
    policy.facts.action_space.parts[1].dims = (0, 2, 1)  # in another order
    layout = layout_of(policy.embodiment("gr1"))  # type: ignore[arg-type]
    assert layout.state == (VectorPart("state", 0, 5),)
    assert layout.action == (VectorPart("action", 0, 4),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"video": {"ego_view": {}}}, "camera 'observation.images.w'"),
        ({"video": None}, "cannot be read"),
        ({"state": {"arm": {"start": 0, "end": 3}}}, "state of 3"),
        ({"state": {"arm": {"start": 1, "end": 5}}}, "must start at 0"),
        ({"state": {"arm": {"start": 0}}}, "cannot be read"),
        ({"action": {"arm": {"start": 0, "end": 5}}}, "action of 5"),
        ({"action": {"arm": {"start": 2, "end": 2}}}, "range of dimensions"),
        ({"action": {}}, "at least one camera and one action part"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        layout_of(FakePolicy().embodiment("gr1"), {**MODALITY, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"port": 70000}, "port 70000"),
        ({"max_message_mb": 0}, "max_message_mb 0"),
        ({"api_token": ""}, "token is empty"),
        ({"host": "0.0.0.0"}, "other machines"),
        ({"host": "*"}, "other machines"),
        ({"host": "192.0.2.1"}, "other machines"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ServerConfig(**settings)


def test_an_open_server_needs_a_token_or_a_word() -> None:
    for settings in ({"api_token": "x"}, {"open_without_token": True}):
        with serving(host="0.0.0.0", **settings) as server, client_of(server, api_token="x") as client:
            assert client.ping()


def test_a_port_that_is_taken_is_the_users_error(server: PolicyServer) -> None:
    with pytest.raises(ValueError, match=f"port {server.port}: .*choose another port"):
        PolicyServer(served(), ServerConfig(port=server.port))


def test_a_client_without_a_server_is_told_so_in_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with PolicyClient(port=port, timeout_s=0.2) as client:
        assert not client.ping()
        with pytest.raises(TimeoutError, match="is the server up"):
            client.get_modality_config()
