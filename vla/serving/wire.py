"""Messages of the policy server: msgpack with numpy arrays, as the clients of Isaac-GR00T write and read them.

An array travels in one of two forms, and both are read whatever the client's version is:

- npy (GR00T N1 to N1.6): {"__ndarray_class__": True, "as_npy": the bytes of an .npy file};
- nd (later N1.7, the form of msgpack-numpy): {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [...], b"data": ...}.

A `ModalityConfig` is {"__ModalityConfig_class__": True, "as_json": ...}, where N1.5 wants JSON text and N1.6 a map;
later N1.7 calls the marker "__ModalityConfig__". Later generations than N1.5 are sent both markers.

What comes in is not trusted. A message is looked over before anything is made of it: all that it holds, down to empty
maps and the headers of its arrays, is paid from one budget of `MAX_ITEMS`. Arrays of objects would be pickles: they are
refused on the way in and out. Sizes that a header claims are compared with the bytes that are there before memory is
taken, and archives (.npz) are not opened.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

Dialect = Literal["n1.5", "n1.6", "n1.7"]
"""Which generation of clients an answer is written for; all are understood on the way in."""
ArrayForm = Literal["npy", "nd"]
"""How an array is written; see above."""

MAX_ITEMS = 2**16
"""Of a whole message: keys, values and elements at all levels, and characters that are read as Python (headers of .npy files)
or as JSON. An observation of ten cameras has some 1500; a million empty maps would take 70 MB and seconds to make."""
MAX_HEADER = 1000
"""Bytes of the header of one .npy file, which numpy reads as Python: a long one would take seconds."""
_KINDS = "buifSU"
_SCALAR, _LIST, _MAP = 0, 1, 2
_HEADS = bytes(
    _MAP
    if head & 0xF0 == 0x80 or head in (0xDE, 0xDF)
    else _LIST
    if head & 0xF0 == 0x90 or head in (0xDC, 0xDD)
    else _SCALAR
    for head in range(256)
)
"""What follows the first byte of a value in msgpack."""
_DTYPE = re.compile(r"[<>=|]?\w{1,12}")
_NPY_MARKS, _ND_MARKS, _CONFIG_MARKS = (
    {*names, *(name.encode() for name in names)}
    for names in (("__ndarray_class__",), ("nd",), ("__ModalityConfig_class__", "__ModalityConfig__"))
)
"""As text or as bytes: clients differ in it."""


@dataclass(frozen=True)
class ModalityConfig:
    """Which keys of a modality a policy reads or writes, and at which steps around the present one."""

    delta_indices: tuple[int, ...]
    """Steps relative to the present: (0,) is now, range(16) an action chunk of 16 steps."""
    modality_keys: tuple[str, ...]
    """Names of its parts."""


@dataclass(frozen=True)
class Received:
    """A message and how it was written, so that the answer can be written alike."""

    content: Any
    """Maps, lists, numbers, texts, arrays and `ModalityConfig`s."""
    array_form: ArrayForm | None
    """Of its last array; None for a message without arrays."""


def to_bytes(content: Any, *, dialect: Dialect = "n1.6", array_form: ArrayForm | None = None) -> bytes:
    """msgpack of maps, lists, scalars, numpy arrays and `ModalityConfig`s.

    `array_form`: instead of the dialect's. Raises ValueError for an array of objects or of records, and for anything
    else that the protocol has no form for.
    """
    form = array_form or ("nd" if dialect == "n1.7" else "npy")

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _encode_array(value, form)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, ModalityConfig):
            return _encode_config(value, dialect)
        raise ValueError(f"a {type(value).__name__} cannot be sent: turn it into numbers, text or a numpy array first")

    try:
        packed = msgpack.packb(content, default=encode)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"message cannot be sent: {error}") from error
    assert isinstance(packed, bytes)
    return packed


def from_bytes(data: bytes) -> Any:
    """The inverse of `to_bytes`, for every dialect. Raises ValueError for what is no such message."""
    return receive(data).content


def receive(data: bytes) -> Received:
    """As `from_bytes`, with the form in which the message's arrays were written."""
    form: ArrayForm | None = None

    def decode(value: dict[Any, Any]) -> Any:
        nonlocal form
        if not _NPY_MARKS.isdisjoint(value):
            form = "npy"
            return _decode_npy(_field(value, "as_npy"), scan.pay)
        if not _ND_MARKS.isdisjoint(value):
            form = "nd"
            return _decode_nd(value)
        if not _CONFIG_MARKS.isdisjoint(value):
            return _decode_config(_field(value, "as_json"), scan.pay)
        return value

    with _refusing():
        scan = _Scan(data)
        scan.count()
        content = msgpack.unpackb(data, object_hook=decode, ext_hook=_no_extension)
    return Received(content, form)


def peek(data: bytes, name: str) -> Any:
    """The value of one field of a message's outermost map, with no other decoded. None where there is no such field, or where
    it is a map or a list. Raises ValueError for what is no message."""
    found = None
    with _refusing():
        scan = _Scan(data)
        for _ in range(scan.enter_map()):
            key, value = scan.scalar(), scan.scalar()
            found = value if key == name else found
    return found


class _Scan:
    """Goes over a msgpack message without making its maps and lists, and pays for what they claim to hold."""

    def __init__(self, data: bytes) -> None:
        self._data, self._left = data, MAX_ITEMS
        self._unpacker = msgpack.Unpacker(max_buffer_size=len(data))
        self._unpacker.feed(data)

    def pay(self, items: int) -> None:
        """Takes so much of the message's budget. Raises ValueError where it is spent."""
        self._left -= items
        if self._left < 0:
            raise ValueError(f"more than {MAX_ITEMS} items, in lists, maps and headers at all levels")

    def enter_map(self) -> int:
        """Pairs of the map that begins here; 0 where none does."""
        return self._enter() // 2 if self._next() == _MAP else 0

    def scalar(self) -> Any:
        """Passes one value with all that it holds; it, or None where it is a map or a list."""
        return self._unpacker.unpack() if self._next() == _SCALAR else self._unpacker.skip()

    def count(self) -> None:
        """Passes one value, and pays for all that it holds."""
        left = 1
        while left:
            left += self._enter() - 1

    def _enter(self) -> int:
        """Passes the header of a map or list, or another value whole; how many values come within it."""
        held, kind = 0, self._next()
        if kind == _MAP:
            held = 2 * self._unpacker.read_map_header()
        elif kind == _LIST:
            held = self._unpacker.read_array_header()
        else:
            self._unpacker.skip()
        self.pay(held)
        return held

    def _next(self) -> int:
        at = self._unpacker.tell()
        return _HEADS[self._data[at]] if at < len(self._data) else _SCALAR


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Whatever msgpack, numpy and this module say of a message that is none, as one kind of error."""
    try:
        yield
    except (ValueError, msgpack.exceptions.UnpackException, TypeError, RecursionError, MemoryError) as error:
        # msgpack's own errors have a name and no text, or speak of its internals
        reason = str(error) or type(error).__name__
        raise ValueError(f"not a message of this protocol (msgpack with numpy arrays): {reason}") from error


def _encode_array(array: NDArray[Any], form: ArrayForm) -> dict[Any, Any]:
    if array.dtype.kind not in _KINDS:
        raise ValueError(
            f"array of {array.dtype} {list(array.shape)} cannot be sent: objects would travel as pickles; only numbers, "
            "booleans and texts of fixed width, e.g. array.astype(np.float32)"
        )
    if form == "nd":
        return {
            b"nd": True,
            b"type": array.dtype.str,
            b"kind": b"",
            b"shape": list(array.shape),
            b"data": array.tobytes(),
        }
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _encode_config(config: ModalityConfig, dialect: Dialect) -> dict[str, Any]:
    content = {"delta_indices": list(config.delta_indices), "modality_keys": list(config.modality_keys)}
    if dialect == "n1.5":
        return {"__ModalityConfig_class__": True, "as_json": json.dumps(content)}
    # each generation looks for its own marker and passes over the other
    return {"__ModalityConfig_class__": True, "__ModalityConfig__": True, "as_json": content}


def _decode_npy(data: Any, pay: Callable[[int], None]) -> NDArray[Any]:
    if not isinstance(data, bytes):
        raise ValueError(f"as_npy is a {type(data).__name__}: must be the bytes of an .npy file")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = readers[version](file, max_header_size=MAX_HEADER)  # type: ignore[operator]
    except Exception as error:  # a header is parsed as Python: what it raises for rubbish is not a closed list
        raise ValueError(f"as_npy is no .npy file: {error}") from error
    pay(file.tell())
    return _from_buffer(memoryview(data)[file.tell() :], dtype, shape, "F" if fortran else "C")


def _decode_nd(value: Mapping[Any, Any]) -> Any:
    if value.get("kind", value.get(b"kind", b"")) not in (b"", ""):
        raise ValueError("an array of objects or records is refused: send numbers, booleans or texts")
    kind = _field(value, "type")
    kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else kind
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise ValueError("an array's type must be numpy's name of a single type, such as '<f4'")
    try:
        dtype = np.dtype(kind)
    except TypeError as error:
        raise ValueError(f"an array's type '{kind}': numpy knows none of that name") from error
    data = _field(value, "data")
    if not isinstance(data, bytes):
        raise ValueError(f"an array's data is a {type(data).__name__}: must be bytes")
    if not _field(value, "nd"):
        return _from_buffer(data, dtype, (), "C")[()]
    shape = _field(value, "shape")
    if not isinstance(shape, list):
        raise ValueError("an array's shape must be a list of integers")
    return _from_buffer(data, dtype, tuple(shape), "C")


def _from_buffer(
    data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Literal["C", "F"]
) -> NDArray[Any]:
    """A writable array, once what the header claims agrees with the bytes that are there."""
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(f"an array of {dtype} is refused: only numbers, booleans and texts; objects would be pickles")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise ValueError("an array's shape must be integers of at least 0")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != len(data) or dtype.itemsize == 0:
        raise ValueError(f"an array of {dtype} {list(shape)[:8]} takes {claimed} bytes, {len(data)} came")
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).copy().reshape(shape, order=order)


def _decode_config(content: Any, pay: Callable[[int], None]) -> ModalityConfig:
    if isinstance(content, str | bytes):
        pay(len(content))
        content = json.loads(content)
    if not isinstance(content, dict):
        raise ValueError("a modality configuration must be a map of delta_indices and modality_keys")
    steps, keys = _field(content, "delta_indices"), _field(content, "modality_keys")
    if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
        raise ValueError("delta_indices must be a list of integers")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("modality_keys must be a list of names")
    return ModalityConfig(tuple(steps), tuple(keys))


def _field(value: Mapping[Any, Any], name: str) -> Any:
    """A field by its name as text or as bytes: clients differ in it."""
    for key in (name, name.encode()):
        if key in value:
            return value[key]
    raise ValueError(f"'{name}' is missing beside its marker")


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code} ({len(data)} bytes): this protocol has none")
