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
    """Feature -> its values. Raises ValueError for bytes that are no Example."""
    found: dict[str, Values] = {}
    try:
        for features in _messages(memoryview(record)):
            for entry in _messages(features):
                pair = {number: value for number, _, value in _fields(entry)}
                found[bytes(pair[1]).decode()] = _values(pair[2]) if 2 in pair else []
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"a record is no tf.train.Example ({type(error).__name__}: {error})") from error
    return found


def _values(feature: memoryview) -> Values:
    for kind, _, whole in _fields(feature):
        fields = [(wire, value) for number, wire, value in _fields(whole) if number == 1]
        if kind == 1:
            return [bytes(value) for _, value in fields]
        if kind == 2:  # packed, or one by one
            return np.frombuffer(b"".join(bytes(value) for _, value in fields), "<f4").astype(np.float32)
        if kind == 3:
            numbers = [n for wire, value in fields for n in (_varints(value) if wire == _BYTES else [value])]
            return np.array(numbers, np.uint64).astype(np.int64)  # two's complement
    return []


def _messages(message: memoryview) -> Iterator[memoryview]:
    """What field 1 holds, each time."""
    for number, wire, value in _fields(message):
        if number == 1:
            if wire != _BYTES:
                raise ValueError("a record is no tf.train.Example: its first field is no message")
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, value) of each field; the value of a varint is a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value  # type: ignore[misc]
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
    """(value, place after it)."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value
