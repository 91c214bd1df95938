"""The settings of an ingest: what decides the bytes of a corpus, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corpora.video.settings import DuplicateSettings, QualitySettings, ShotSettings

STAGE_FUNCTION = "corpora.ingestion.stage:stage_source"


@dataclass(frozen=True)
class IngestSettings:
    """A corpus made with other settings has other bytes; where and how fast it is made is not among them."""

    size: int = 128
    """Side of the stored square frames in pixels; even."""
    fit: Literal["stretch", "crop"] = "stretch"
    """The whole image without keeping its aspect, or its middle square."""
    max_fps: float = 20.0
    """Frames are left out, never made up, until at most this many remain for each second."""
    clip_s: float = 10.0
    """Length of a window; the last of a shot is shorter."""
    min_clip_s: float = 1.0
    """Shorter windows are dropped as too_short."""
    camera_gap_s: float = 0.5
    """Time between the two frames of a pair for which the camera's motion is measured."""
    decoder: Literal["auto", "pyav", "decord"] = "auto"
    """auto: the one that a short measurement finds the quicker on this machine; decord: wherever it is checked to agree with PyAV."""
    crf: int = 16
    """Quality of the stored H.264; smaller is better."""
    gop: int = 16
    """Frames between keyframes of stored clips, at most."""
    shard_mb: float = 128.0
    """Size of a shard in megabytes."""
    shots: ShotSettings = field(default_factory=ShotSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, rule: str) -> None:
            if not holds:
                raise ValueError(f"{name} {getattr(self, name)!r}: {rule}")

        require(self.size >= 16 and self.size % 2 == 0, "size", "must be even and at least 16; try 128")
        require(self.fit in ("stretch", "crop"), "fit", "must be 'stretch' or 'crop'")
        require(self.decoder in ("auto", "pyav", "decord"), "decoder", "must be 'auto', 'pyav' or 'decord'")
        require(self.max_fps > 0, "max_fps", "must be above 0; try 20")
        require(self.clip_s > 0, "clip_s", "must be above 0 seconds; try 10")
        require(
            0 < self.min_clip_s <= self.clip_s, "min_clip_s", f"must be above 0 and at most clip_s ({self.clip_s:g} s)"
        )
        require(
            0 < self.camera_gap_s < self.clip_s, "camera_gap_s", f"must be above 0 and below clip_s ({self.clip_s:g} s)"
        )
        require(0 <= self.crf <= 51, "crf", "must be from 0 (lossless) to 51; try 16")
        require(self.gop >= 1, "gop", "must be at least 1; try 16")
        require(self.shard_mb > 0, "shard_mb", "must be above 0; try 128")


@dataclass(frozen=True)
class IngestRun:
    """Where and how fast a corpus is made; none of it changes its bytes."""

    out: Path
    engine: Literal["local", "ray"] = "local"
    workers: int | None = 1
    """None: one for each core, of this machine or of the cluster."""
    file_timeout_s: float = 120.0
    seed: int = 0
    function: str = STAGE_FUNCTION

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers {self.workers}: must be at least 1")
        if self.file_timeout_s <= 0:
            raise ValueError(f"file_timeout_s {self.file_timeout_s}: must be above 0 seconds; try 120")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"engine '{self.engine}': must be 'local' or 'ray'")
