"""The wire format against the public one (written out by hand here), its refusals, and rubbish."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from vla.serving.wire import MAX_ITEMS, ModalityConfig, from_bytes, peek, receive, to_bytes

ARRAYS = [
    np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
    np.linspace(-1, 1, 7, dtype=np.float32),
    np.linspace(-1, 1, 6).reshape(2, 3).T,  # not contiguous in C order
    np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    np.array(3.5),
    np.zeros((0, 7), np.float32),
    np.array([[True, False]]),
    np.array(["pick up the bottle", ""]),
    np.arange(3, dtype=">i2"),
    np.arange(3, dtype=np.float16),
]


def npy(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_message(data: Any) -> bytes:
    return bytes(msgpack.packb({"x": {"__ndarray_class__": True, "as_npy": data}}))


def nd_message(**fields: Any) -> bytes:
    return bytes(msgpack.packb({"x": {key.encode(): value for key, value in fields.items()}}))


@pytest.mark.parametrize("form", ["npy", "nd"])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_arrays_come_back_as_they_were(array: np.ndarray[Any, Any], form: Any) -> None:
    received = receive(to_bytes({"a": [array]}, array_form=form))
    back = received.content["a"][0]
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    assert received.array_form == form


def test_a_request_is_byte_for_byte_what_groots_client_writes() -> None:
    state = np.zeros((1, 7), np.float32)
    request = {"endpoint": "get_action", "data": {"state.arm": state, "annotation.human.task_description": ["go"]}}
    by_hand = {
        "endpoint": "get_action",
        "data": {
            "state.arm": {"__ndarray_class__": True, "as_npy": npy(state)},
            "annotation.human.task_description": ["go"],
        },
    }
    assert to_bytes(request) == msgpack.packb(by_hand)


def test_the_later_form_is_msgpack_numpys() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    envelope = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2, 3], b"data": array.tobytes()}
    assert to_bytes(array, dialect="n1.7") == msgpack.packb(envelope)
    scalar = {b"nd": False, b"type": "<f4", b"data": np.float32(2.5).tobytes()}
    assert from_bytes(bytes(msgpack.packb(scalar))) == 2.5


def test_modality_configs_in_each_dialect() -> None:
    config = ModalityConfig((-1, 0), ("ego_view",))
    content = {"delta_indices": [-1, 0], "modality_keys": ["ego_view"]}
    written = {d: msgpack.unpackb(to_bytes(config, dialect=d)) for d in ("n1.5", "n1.6", "n1.7")}
    assert json.loads(written["n1.5"].pop("as_json")) == content
    assert written["n1.5"] == {"__ModalityConfig_class__": True}
    both = {"__ModalityConfig_class__": True, "__ModalityConfig__": True, "as_json": content}
    assert written["n1.6"] == written["n1.7"] == both  # a client of either finds its own
    for dialect in ("n1.5", "n1.6", "n1.7"):
        assert from_bytes(to_bytes({"video": config}, dialect=dialect)) == {"video": config}


def test_fields_that_later_servers_add_to_a_modality_config_are_left_out() -> None:
    content = {"delta_indices": [0], "modality_keys": ["arm"], "action_configs": None, "sin_cos_embedding_keys": None}
    message = bytes(msgpack.packb({"__ModalityConfig_class__": True, "as_json": content}))
    assert from_bytes(message) == ModalityConfig((0,), ("arm",))


def test_scalars_of_numpy_travel_as_numbers() -> None:
    assert from_bytes(to_bytes({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)})) == {
        "a": 0.5,
        "b": 3,
        "c": True,
    }


class Exploding:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("form", ["npy", "nd"])
def test_arrays_of_objects_are_not_sent(form: Any) -> None:
    for array in (np.array([{"a": 1}], dtype=object), np.zeros(2, [("a", "f4"), ("b", "O")])):
        with pytest.raises(ValueError, match="cannot be sent"):
            to_bytes({"x": array}, array_form=form)


def test_arrays_of_objects_are_not_read_and_their_pickles_not_opened() -> None:
    pickled = npy(np.array([Exploding()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="refused"):
        from_bytes(npy_message(pickled))
    for kind in (b"O", "O", b"V"):
        with pytest.raises(ValueError, match="refused"):
            from_bytes(nd_message(nd=True, type="|O", kind=kind, shape=[1], data=pickled))
    with pytest.raises(ValueError, match="refused"):
        from_bytes(nd_message(nd=1, type="|O", shape=[1], data=b"12345678"))


def test_an_archive_in_the_place_of_an_array_is_not_opened() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1_000_000))
    with pytest.raises(ValueError, match=r"no \.npy file"):
        from_bytes(npy_message(file.getvalue()))


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


BROKEN = {
    "empty": b"",
    "text": b"hello",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "cut off": to_bytes({"a": np.zeros(100)})[:-20],
    "two messages": to_bytes({"a": 1}) * 2,
    "not utf-8": b"\xa4\xff\xfe\xfd\xfc",
    "deep": b"\x91" * 100_000 + b"\xc0",
    "key is a list": b"\x81\x90\x01",
    "key is a number": b"\x81\x01\x01",
    "extension": bytes(msgpack.packb(msgpack.ExtType(5, b"abc"))),
    "map that claims much": b"\xdf\xff\xff\xff\xff",
    "bytes that claim much": b"\xc6\xff\xff\xff\xff",
    "as_npy is missing": bytes(msgpack.packb({"__ndarray_class__": True})),
    "as_npy is text": npy_message("abc"),
    "as_npy is rubbish": npy_message(b"rubbish"),
    "as_npy is cut off": npy_message(npy(np.zeros(5))[:-1]),
    "as_npy is too long": npy_message(npy(np.zeros(5)) + b"1"),
    "as_npy claims much": npy_message(
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n")
    ),
    "as_npy of nothing": npy_message(header("{'descr': '<U0', 'fortran_order': False, 'shape': (10000000000,), }\n")),
    "as_npy is negative": npy_message(
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n") + b"0" * 8
    ),
    "as_npy nests": npy_message(header("(" * 9000 + "\n")),
    "nd without data": nd_message(nd=True, type="<f4", kind=b"", shape=[1]),
    "nd of no type": nd_message(nd=True, type="wat", kind=b"", shape=[1], data=b"1234"),
    "nd of two types": nd_message(nd=True, type="f4,f4", kind=b"", shape=[1], data=b"12345678"),
    "nd of many types": nd_message(nd=True, type="f4," * 100_000, kind=b"", shape=[0], data=b""),
    "nd of a list": nd_message(nd=True, type=[["a", "<f4"]], kind=b"", shape=[1], data=b"1234"),
    "nd claims much": nd_message(nd=True, type="<f4", kind=b"", shape=[2**40, 2**40], data=b"1234"),
    "nd claims little": nd_message(nd=True, type="<f4", kind=b"", shape=[1], data=b"12345678"),
    "nd of texts": nd_message(nd=True, type="<f4", kind=b"", shape=["1"], data=b"1234"),
    "scalar of two": nd_message(nd=False, type="<f4", data=b"12345678"),
    "config of text": bytes(msgpack.packb({"__ModalityConfig_class__": True, "as_json": "{"})),
    "config of a list": bytes(msgpack.packb({"__ModalityConfig__": True, "as_json": []})),
    "config of numbers": bytes(
        msgpack.packb({"__ModalityConfig__": True, "as_json": {"delta_indices": [0], "modality_keys": [1]}})
    ),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_rubbish_is_a_value_error_and_takes_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a message of this protocol"):
            from_bytes(BROKEN[name])
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def lists_of(count: int, item: bytes) -> bytes:
    """`count` lists of 10,000 items each, none of which is large by itself."""
    return b"\xdd" + struct.pack(">I", count) + (b"\xdc" + struct.pack(">H", 10_000) + item * 10_000) * count


TOO_MUCH = {
    "empty maps": lists_of(50, b"\x80"),
    "empty lists": lists_of(50, b"\x90"),
    "nothing": lists_of(50, b"\xc0"),
    "empty texts as keys": b"\xdf" + struct.pack(">I", 500_000) + b"\xa0\xc0" * 500_000,
    "nested lists that each claim much": (b"\xdd" + struct.pack(">I", 10_000)) * 3000 + b"\x00" * 200_000,
    "claims without items": b"\xdd\xff\xff\xff\xff",
    "empty maps beside arrays": b"\x82\xa1x" + to_bytes(np.zeros(9)) + b"\xa1y" + lists_of(50, b"\x80"),
    "arrays with long headers": bytes(
        msgpack.packb(
            [
                {"__ndarray_class__": True, "as_npy": header("{'descr': '|u1', 'fortran_order': False, 'shape': (0,)}" + " " * 900)}
            ] * 100
        )
    ),
    "JSON": bytes(msgpack.packb({"__ModalityConfig__": True, "as_json": "[" + "{}," * 300_000 + "{}]"})),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TOO_MUCH))
def test_all_that_a_message_holds_is_paid_from_one_budget(name: str) -> None:
    """64 MB of empty maps would take 3.4 GB and 45 s."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"more than {MAX_ITEMS} items"):
            from_bytes(TOO_MUCH[name])
        assert tracemalloc.get_traced_memory()[1] < len(TOO_MUCH[name]) + 10e6
    finally:
        tracemalloc.stop()


def test_one_field_is_read_and_nothing_else_is_decoded() -> None:
    request = {
        "data": {"x": {"__ndarray_class__": True, "as_npy": b"rubbish"}},
        "api_token": "x",
        "more": [{}] * MAX_ITEMS,
    }
    message = bytes(msgpack.packb(request))
    assert peek(message, "api_token") == "x"
    assert peek(message, "data") is None and peek(message, "other") is None
    assert peek(bytes(msgpack.packb(["api_token", "x"])), "api_token") is None
    for broken in (message[:-1], TOO_MUCH["empty texts as keys"], b"\x81\xa1d" + b"\x91" * 10**6):
        with pytest.raises(ValueError, match="not a message"):
            peek(broken, "api_token")


def test_random_bytes_never_raise_anything_else() -> None:
    draw = np.random.default_rng(0)
    whole = bytearray(to_bytes({"endpoint": "get_action", "data": {"a": np.arange(5.0), "b": ["c", None, 1.5]}}))
    refused = 0
    for _ in range(3000):
        broken = bytearray(whole)
        for place in draw.integers(0, len(broken), 3):
            broken[place] = draw.integers(256)
        try:
            from_bytes(bytes(broken))
        except ValueError:
            refused += 1
    assert refused > 1000


def test_what_has_no_form_is_named() -> None:
    with pytest.raises(ValueError, match="a set cannot be sent"):
        to_bytes({"a": {1, 2}})
    with pytest.raises(ValueError, match="cannot be sent"):
        to_bytes({"a": 2**70})
