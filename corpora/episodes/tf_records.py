"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is  uint64 length, uint32 checksum, bytes, uint32 checksum  (little endian; checksums are CRC-32C, masked); the
bytes are a protocol buffer as in tensorflow/core/example/example.proto and feature.proto. (The package `tfrecord` reads
them, too, but it compares no checksum, reads a packed number of another kind as none, and importing it imports torch.)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

Values = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""Of one feature, flat."""

_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_LIST = 'message_type {{ name: "{0}List" field {{ name: "value" number: 1 label: LABEL_REPEATED type: TYPE_{1} }} }}\n'
_ONE = 'field {{ name: "{0}" number: {1} label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".giza.{2}" {3} }}\n'
_PROTO = (
    'name: "giza_example.proto" package: "giza" syntax: "proto3"\n'
    + "".join(_LIST.format(*each) for each in (("Bytes", "BYTES"), ("Float", "FLOAT"), ("Int64", "INT64")))
    + 'message_type { name: "Feature" oneof_decl { name: "kind" }\n'
    + _ONE.format("bytes_list", 1, "BytesList", "oneof_index: 0")
    + _ONE.format("float_list", 2, "FloatList", "oneof_index: 0")
    + _ONE.format("int64_list", 3, "Int64List", "oneof_index: 0")
    + '} message_type { name: "Features"\n'
    + 'field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".giza.Features.Entry" }\n'
    + 'nested_type { name: "Entry" options { map_entry: true }\n'
    + 'field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }\n'
    + _ONE.format("value", 2, "Feature", "")
    + '} } message_type { name: "Example"\n'
    + _ONE.format("features", 1, "Features", "")
    + "}"
)


def _example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("giza.Example"))


_Example = _example_class()


def records(path: Path) -> Iterator[tuple[bytes, str]]:
    """(bytes, why they cannot be trusted or "") of each record of a file, in order. Raises ValueError where the file is cut
    off, is no TFRecord file, or a length is damaged, so that what follows is not found."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            head = file.read(_HEAD.size)
            length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (size, 0)
            if len(head) == _HEAD.size and checksum != masked_crc32c(head[:8]):
                raise ValueError(
                    f"'{path.name}' at byte {at}: the checksum of a length is not that of its bytes: it is damaged, or no "
                    "TFRecord file; copy it again"
                )
            at += _HEAD.size + length + _FOOT.size
            if at > size:
                raise ValueError(
                    f"'{path.name}' ends within a record: it is cut off, or no TFRecord file; copy it again"
                )
            content = file.read(length)
            (checksum,) = _FOOT.unpack(file.read(_FOOT.size))
            sound = checksum == masked_crc32c(content)
            yield content, "" if sound else "its checksum is not that of its bytes: it is damaged; copy the file again"


def checksums(path: Path) -> Iterator[bytes]:
    """What a file says of its records, lengths and checksums, without reading these; as far as it can be followed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            yield head
            if checksum != masked_crc32c(head[:8]) or file.tell() + length + _FOOT.size > size:
                return
            file.seek(length, os.SEEK_CUR)
            yield file.read(_FOOT.size)


def masked_crc32c(content: bytes) -> int:
    """CRC-32C, turned and shifted as TFRecord has it."""
    crc = int(google_crc32c.value(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


def example(record: bytes) -> dict[str, Values]:
    """Feature -> its values. Raises ValueError for bytes that are no Example. Needs memory of the record's own size only,
    whatever its bytes say."""
    message = _Example()
    try:
        message.ParseFromString(record)
    except DecodeError as error:
        raise ValueError(f"a record is no tf.train.Example ({error})") from error
    features = message.features.feature
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    lists = {name: getattr(features[name], kind) for name, kind in kinds.items() if kind}
    # what is of another wire type than it should be lies among the unknown
    if any(len(UnknownFieldSet(part)) for part in (message, message.features, *features.values(), *lists.values())):
        raise ValueError("a record is no tf.train.Example: it holds fields that such a message has not")
    return {name: _values(lists[name].value, kind) if kind else [] for name, kind in kinds.items()}


def _values(values: Any, kind: str) -> Values:
    if kind == "bytes_list":
        return list(values)
    return np.array(values, np.float32) if kind == "float_list" else np.array(values, np.int64)
