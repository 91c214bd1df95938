"""Frames of an episode's rows: the nearest, the same whether the others are decoded or not."""

from __future__ import annotations

import numpy as np
import pytest

from corpora.episodes import frames as episode_frames
from corpora.episodes.frames import nearest_frames
from corpora.video.decode import DecodingReport, decoded_frames
from corpora.video.probe import probe
from tests.builders.videos import numbered_frame, write_video


@pytest.mark.parametrize(
    "wanted_s", [np.arange(20) / 10, np.arange(12) / 6 + 1 / 60, np.array([0.31, 0.5, 0.52, 1.9, 2.5])]
)
def test_frames_that_no_row_shows_need_not_be_decoded(tmp_path, wanted_s, monkeypatch):
    frames = [numbered_frame(index) for index in range(60)]
    path = write_video(tmp_path / "v.mp4", frames, fps=30, options={"bf": "3", "b_strategy": "0"})
    facts, given = probe(path), []

    def read(every: bool) -> list[tuple[list[int], np.ndarray]]:
        def counting(*args, needed=None, **how):
            given.append(0)
            for each in decoded_frames(*args, needed=None if every else needed, **how):
                given[-1] += 1
                yield each

        monkeypatch.setattr(episode_frames, "decoded_frames", counting)
        report = DecodingReport()
        found = [(rows.tolist(), image) for rows, image in nearest_frames(path, facts, wanted_s, 64, 1 / 10, report)]
        assert (report.lost, report.first_error) == (0, "")
        return found

    fewer, all_of_them = read(every=False), read(every=True)
    assert [rows for rows, _ in fewer] == [rows for rows, _ in all_of_them]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(fewer, all_of_them, strict=True))
    assert given[0] < given[1]
