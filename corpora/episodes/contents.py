"""All that a dataset of episodes holds, as a digest: metadata, rows or videos that were changed in place are seen."""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path

from corpora.episodes.opening import dataset_fingerprint, format_of
from corpora.episodes.tf_records import checksums

WHOLE = 1 << 28
"""Bytes up to which a table is read whole: whoever opens the dataset reads its rows, too."""
_ENDS = 1 << 12
"""Bytes of either end of what is longer, or a video, which is not written anew without another size or index."""


def contents_fingerprint(folder: str | Path) -> str:
    """Of a dataset's metadata and data files, wherever it lies: tables whole, videos by size and ends, records by their checksums.
    Raises ValueError where there is no dataset."""
    root = Path(folder).expanduser()
    patterns = format_of(root).contents
    found = {name for pattern in patterns for name in glob.iglob(pattern, root_dir=root, recursive=True)}
    digest = hashlib.blake2b(dataset_fingerprint(root).encode(), digest_size=8)
    for name in sorted(found):
        digest.update(os.fsencode(name) + b"\0")
        digest.update(_of_file(root / name))
    return digest.hexdigest()


def _of_file(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    if ".tfrecord" in path.name:
        for checksum in checksums(path):
            digest.update(checksum)
        return digest.digest()
    with path.open("rb") as file:
        if path.suffix == ".parquet" and size <= WHOLE:
            while block := file.read(1 << 22):
                digest.update(block)
        else:
            digest.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.digest()
