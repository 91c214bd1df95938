"""One video to be cut into clips, wherever it lies, and the kinds of inputs that videos come from."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from corpora.clips.manifest import TIERS
from corpora.episodes.truth import TruthRef
from corpora.store.files import stamp_of
from corpora.store.remote import here, local, told

_SUFFIXES = """
mp4 m4v mov mkv webm avi gif mpg mpeg ts mts m2ts wmv flv 3gp 3g2 ogv y4m h264 264 h265 265 hevc ivf asf vob mxf f4v m2v m1v
mjpeg mjpg dv rm rmvb qt m2t nut obu lrv 360 insv wtv swf h261 h263 apng amv gxf mk3d divx ogm ismv drc m2p mpv tod trp tp
nsv vc1
"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


UNREACHABLE = "unreachable"
"""The fault of what the machine could not read when sources were listed: it is tried again, unlike every other fault."""


@dataclass(frozen=True)
class File:
    """A video that is a file of its own, or a stretch of one."""

    path: str
    stamp: tuple[int, int] = (0, 0)
    """Size and modification time (ns), so that a changed file is done again."""

    offset: ClassVar[int] = -1
    """It is no part of a file, unlike a `TarMember`."""
    size: ClassVar[int] = 0
    suffix: ClassVar[str] = ""

    @classmethod
    def at(cls, path: Path) -> File:
        """With the stamp that it has now."""
        return cls(str(path), stamp_of(path))

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """The file to decode. `folder`: where a copy may lie for as long as it is needed."""
        yield here(Path(self.path))


@dataclass(frozen=True)
class TarMember:
    """A video within a tar, as it is (not compressed)."""

    path: str
    """Of the tar."""
    stamp: tuple[int, int]
    offset: int
    """Where its bytes begin."""
    size: int
    """Bytes."""
    suffix: str
    """".mp4" """

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path]:
        """A copy of it in `folder`, that lasts as long as it is needed."""
        with tempfile.NamedTemporaryFile(dir=folder, suffix=self.suffix) as copy:
            with here(self.path).open("rb") as tar:
                tar.seek(self.offset)
                left = self.size
                while left > 0 and (block := tar.read(min(left, 1 << 20))):
                    copy.write(block)
                    left -= len(block)
            copy.flush()
            yield Path(copy.name)


@dataclass(frozen=True)
class Source:
    """One video, or one stretch of a video, to be cut into clips."""

    name: str
    """As shown to people."""
    group: str
    """Unit of hold-out."""
    media: File | TarMember
    selector: str = ""
    """Of an episode of a robot dataset alone, camera and number: tells apart what shares a file. Its clock is that of the rows,
    and it is not searched for cuts; a video that is no such episode leaves this empty."""
    span_s: tuple[float, float | None] = (0.0, None)
    """The stretch of the file to use, seconds; None: to its end."""
    origin_s: float = 0.0
    """Time of the file that is the source's zero (an episode's beginning in a file of several)."""
    fps: float = 0.0
    """Frames a second at which it was recorded, where it is stored at another rate; `span_s` then counts as recorded."""
    text: str = ""
    tier: str = ""
    embodiment: str = ""
    truth: TruthRef | None = None
    """The episode's states and actions."""
    fault: str = ""
    """Reason, where it is already known that there is nothing to decode. `UNREACHABLE`: not now."""
    fault_detail: str = ""

    @property
    def start_s(self) -> float:
        return self.span_s[0]

    @property
    def end_s(self) -> float:
        """Infinite where it goes to the file's end."""
        return math.inf if self.span_s[1] is None else self.span_s[1]

    @property
    def key(self) -> str:
        """32 hex digits that change with anything that changes the result."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Flat; corpora that are there name their sources by it."""
        truth = self.truth or TruthRef("", -1, 0.0, 0)
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "path": told(self.media.path),
            "stamp": list(self.media.stamp),
            "start_s": self.span_s[0],
            "end_s": self.span_s[1],
            "tar_offset": self.media.offset,
            "tar_bytes": self.media.size,
            "tar_suffix": self.media.suffix,
            **{f"truth_{name}": getattr(truth, name) for name in _TRUTH},
            **({"fps": self.fps} if self.fps else {}),
        }

    @staticmethod
    def from_json(record: dict[str, Any]) -> Source:
        """Of `to_json`."""
        place = local(record["path"]), (int(record["stamp"][0]), int(record["stamp"][1]))
        tar = record["tar_offset"], record["tar_bytes"], record["tar_suffix"]
        return Source(
            media=TarMember(*place, *tar) if record["tar_offset"] >= 0 else File(*place),
            span_s=(record["start_s"], record["end_s"]),
            fps=record.get("fps", 0.0),
            truth=TruthRef(*(record[f"truth_{name}"] for name in _TRUTH)) if record["truth_path"] else None,
            **{name: record[name] for name in _PLAIN},
        )


_PLAIN = ("name", "group", "selector", "origin_s", "text", "tier", "embodiment", "fault", "fault_detail")
_TRUTH = ("path", "episode", "fps", "length")


@dataclass(frozen=True)
class LeftOut:
    """A file within an input that is no video; they are counted by suffix."""

    suffix: str


@dataclass(frozen=True)
class SourceDefaults:
    """What applies to sources of which no list says otherwise."""

    tier: str = ""
    embodiment: str = ""
    text: str = ""
    cameras: tuple[str, ...] = ()
    """Cameras of LeRobot datasets; empty: all that are no depth maps."""
    fps: float = 0.0
    """See `Source`; 0: as stored."""

    def __post_init__(self) -> None:
        if not 0 <= self.fps < math.inf:
            raise ValueError(
                f"fps {self.fps:g}: give frames a second as they were recorded, or 0 for as they are stored"
            )


def check_tier(tier: str, where: str) -> None:
    """ValueError unless `tier` is empty or one of the four."""
    if tier and tier not in TIERS:
        raise ValueError(f"{where}: tier '{tier}' is unknown; use one of {', '.join(TIERS)}")


class SourceKind(ABC):
    """A kind of input: a file or a folder that holds videos. One of your own lies in a notebook, or in a file of this folder:

    @corpora.sources.register
    class Zipped(SourceKind):
        def recognises(self, path):
            return path.suffix == ".zip"

        def sources(self, path, name, defaults):
            for video in unpacked(path):
                yield Source(name=f"{name}/{video.name}", group=name, media=File.at(video))
    """

    rank = 0
    """Kinds of a lower rank are asked first: giza's own have 50, and video files 100."""
    only_named = False
    """Whether it is taken for input only where it is named as such, not where it lies in a folder."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether this file or folder is of this kind."""

    def root(self, path: Path) -> Path:
        """What the names of its videos begin with; by default those of a file or folder begin with its own name."""
        return path

    @abstractmethod
    def sources(self, path: Path, name: str, defaults: SourceDefaults) -> Iterator[Source | LeftOut]:
        """Its videos, in an order that is always the same. `name`: of the input, to begin their names and groups with, so
        that these are unique. What is wrong with it is a source with a fault, what in it is no video may be said to be left
        out; ValueError for what was asked of it wrongly."""


_Kind = TypeVar("_Kind", bound=type[SourceKind])
KINDS: list[SourceKind] = []
"""In the order in which they are asked."""


def register(kind: _Kind) -> _Kind:
    """Makes a kind known to ingest; registered again (a notebook's cell) it takes the place of its older self."""
    name = kind.__module__, kind.__qualname__
    KINDS[:] = [known for known in KINDS if (type(known).__module__, type(known).__qualname__) != name]
    KINDS.append(kind())
    KINDS.sort(key=lambda known: known.rank)
    return kind
