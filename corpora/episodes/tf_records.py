"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is  uint64 length, uint32 checksum, bytes, uint32 checksum  (little endian); the bytes are a protocol buffer:

    Example { features: Features = 1 }    Features { map<string, Feature> feature = 1 }
    Feature { bytes_list = 1 | float_list = 2 | int64_list = 3 }    ..._list { repeated value = 1 }

(tensorflow/core/example/example.proto and feature.proto; the wire format is protobuf.dev/programming-guides/encoding.)
Checksums are not compared: CRC-32C takes longer in Python than all the rest, and a cut file shows by its lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Values = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""Of one feature, flat."""

_HEAD, _FOOT = struct.Struct("<QI"), 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10
"""The longest there is: 64 bits, 7 a byte."""


def records(path: Path) -> Iterator[bytes]:
    """The records of a file in order. Raises ValueError where it is cut off or no TFRecord file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            head = file.read(_HEAD.size)
            length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else size
            at += _HEAD.size + length + _FOOT
            if at > size:
                raise ValueError(
                    f"'{path.name}' ends within a record: it is cut off, or no TFRecord file; copy it again"
                )
            yield file.read(length)
            file.seek(_FOOT, 1)


def example(record: bytes) -> dict[str, Values]:
    """Feature -> its values. Raises ValueError for bytes that are no Example. Needs memory of the record's own size only,
    whatever its bytes say."""
    found: dict[str, Values] = {}
    try:
        for features in _messages(memoryview(record)):
            for entry in _messages(features):
                pair = {number: _held(wire, value) for number, wire, value in _fields(entry) if number in (1, 2)}
                found[bytes(pair[1]).decode()] = _values(pair[2]) if 2 in pair else []
    except (IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"a record is no tf.train.Example ({type(error).__name__}: {error})") from error
    return found


def _values(feature: memoryview) -> Values:
    for kind, outer, whole in _fields(feature):
        if kind not in (1, 2, 3):
            continue
        fields = [(wire, value) for number, wire, value in _fields(_held(outer, whole)) if number == 1]
        if kind == 1:
            return [bytes(_held(wire, value)) for wire, value in fields]
        if kind == 2:  # packed, or one by one
            floats = [_held(wire, value, _BYTES, _FIXED32) for wire, value in fields]
            if odd := [len(value) for value in floats if len(value) % 4]:
                raise ValueError(f"a record is no tf.train.Example: floats of {odd[0]} bytes, no multiple of 4")
            return np.frombuffer(b"".join(floats), "<f4").astype(np.float32)
        numbers: list[int] = []
        for wire, value in fields:
            numbers += _varints(_held(wire, value)) if isinstance(value, memoryview) else [value]
        return np.array(numbers, np.uint64).astype(np.int64)  # two's complement
    return []


def _messages(message: memoryview) -> Iterator[memoryview]:
    """What field 1 holds, each time."""
    for number, wire, value in _fields(message):
        if number == 1:
            yield _held(wire, value)


def _held(wire: int, value: memoryview | int, *kinds: int) -> memoryview:
    """The bytes of a field of one of these wire types (none given: bytes). Raises ValueError for another, before
    `bytes()` of a number makes that many zeros."""
    if isinstance(value, int) or wire not in (kinds or (_BYTES,)):
        raise ValueError(f"a record is no tf.train.Example: a field of wire type {wire} where others are")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(number, wire type, value) of each field; the value of a varint is a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a record is no tf.train.Example: wire type {wire}")
        if at + size > len(message):
            raise ValueError("a record is no tf.train.Example: a field is longer than the message")
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(value, place after it). Raises ValueError where it does not end within _VARINT_BYTES, or within the message."""
    value = 0
    for place, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise ValueError(f"a record is no tf.train.Example: a number does not end within {_VARINT_BYTES} bytes")


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value
