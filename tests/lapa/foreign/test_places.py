"""A row finds its video by what its trainer called it."""

from __future__ import annotations

import pytest

from corpora.clips.manifest import ClipRow
from lapa.foreign.place import Videos
from lapa.foreign.row import Bad, Row


def clip(source: str, group: str = "") -> ClipRow:
    return ClipRow(f"{abs(hash(source)):016x}", source, group or source, kept=True)


CLIPS = [
    clip("a/0.mp4"), clip("b/0.mp4"), clip("b/1.webm"), clip("ds/episode_000003/top", "ds/episode_000003"),
    clip("two/episode_000004/top", "two/episode_000004"), clip("two/episode_000004/side", "two/episode_000004"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("video", "source"),
    [
        ("a/0.mp4", "a/0.mp4"),
        ("/data/b/0.mp4", "b/0.mp4"),
        ("C:\\data\\b\\0.mp4", "b/0.mp4"),
        ("frames/b/1", "b/1.webm"),
        ("1.webm", "b/1.webm"),
        ("episode_000003", "ds/episode_000003/top"),
        ("two/episode_000004/side", "two/episode_000004/side"),
    ],
)
def test_by_its_name_by_more_and_by_less_of_its_path(video: str, source: str) -> None:
    found = Videos(CLIPS).clips_of(Row("line 1", video, "", 0.0, 0.5, None, None))
    assert not isinstance(found, Bad) and [one.source for one in found] == [source]


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        ("0.mp4", "names several videos of the corpus"),
        ("episode_000004", "names several videos of the corpus"),
        ("c/0.mp4", "is of a video that is not in the corpus"),
        ("0", "names several videos of the corpus"),
        ("xa/0.mp4", "is of a video that is not in the corpus"),
    ],
)
def test_what_another_folder_holds_is_not_taken_for_it(video: str, reason: str) -> None:
    found = Videos(CLIPS).clips_of(Row("line 1", video, "", 0.0, 0.5, None, None))
    assert isinstance(found, Bad) and found.reason == reason
