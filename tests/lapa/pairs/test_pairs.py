"""Pairs: seconds, never frames; never a clip's end twice; stabilised by the camera's measured motion."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from corpora.clips.manifest import ClipRow
from corpora.ingestion.settings import IngestSettings
from corpora.ingestion.windows import camera_of, cut_windows
from corpora.video.nearest import every_stride, pair_indices
from lapa.extraction.settings import ExtractionSettings
from lapa.pairs.config import LabelSpec, PairConfig
from lapa.pairs.flow import pair_flow
from lapa.pairs.known_motion import SeenLabels, chosen_share, relative_motion
from lapa.pairs.pair import stabilise
from lapa.pairs.split import split_groups
from tests.builders.videos import numbered_frame


def slow_pairs(t_s: np.ndarray, gap_s: float, tolerance: float) -> list[tuple[int, int]]:
    found = []
    half = 0.5 * float(np.median(np.diff(t_s)))
    allowed = max(tolerance * gap_s, half) + 1e-6
    for i, t in enumerate(t_s):
        if t + gap_s > t_s[-1] + half + 1e-6:
            continue
        distance = np.abs(t_s - (t + gap_s))
        nearest = np.flatnonzero(distance <= distance.min() + 1e-6)[-1]
        if nearest > i and distance[nearest] <= allowed:
            found.append((i, int(nearest)))
    return found


@pytest.mark.parametrize("gap_s", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("rate", [4.0, 10.0, 15.0, 20.0])
def test_pairs_agree_with_a_loop_over_frames(rate: float, gap_s: float) -> None:
    t_s = 3.0 + np.arange(40) / rate
    first, second = pair_indices(t_s, gap_s)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == slow_pairs(t_s, gap_s, 0.1)


def test_uneven_times_pair_by_time_not_by_index() -> None:
    rng = np.random.default_rng(0)
    t_s = np.cumsum(rng.uniform(0.02, 0.12, 200))
    first, second = pair_indices(t_s, 0.5)
    assert len(first) > 150
    assert np.abs(t_s[second] - t_s[first] - 0.5).max() <= 0.06 + 1e-6
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == slow_pairs(t_s, 0.5, 0.1)


def test_the_end_of_a_clip_is_never_repeated() -> None:
    t_s = np.arange(30) / 10
    first, second = pair_indices(t_s, 1.0)
    assert (second - first == 10).all()
    assert first.max() == 19


def test_a_gap_that_no_frames_have_gives_no_pairs() -> None:
    assert len(pair_indices(np.arange(5) / 10, 3.0)[0]) == 0
    with pytest.raises(ValueError, match="gap_s 0"):
        pair_indices(np.arange(5) / 10, 0.0)


def test_stabilising_undoes_a_known_camera_motion() -> None:
    rng = np.random.default_rng(1)
    world = (rng.random((16, 20, 3)) * 255).astype(np.uint8)
    world = cv2.resize(world, (80, 64), interpolation=cv2.INTER_CUBIC)
    first, second = np.ascontiguousarray(world[:, :64]), np.ascontiguousarray(world[:, 6:70])
    h = np.eye(3)
    h[0, 2] = -6 * 2 / 64  # the world moves six pixels to the left
    before, after, valid = stabilise(first, second, h, compensate=True)
    assert np.abs(before.astype(int) - after)[valid].max() <= 2
    assert np.abs(before.astype(int) - world[:, 3:67])[valid].max() <= 2  # half way: what lies between the two views
    assert np.abs(first.astype(int) - second).mean() > 10
    assert 0.88 < valid.mean() < 0.93  # 6 of 64 columns were out of one view or the other
    assert not valid[:, :3].any()
    assert not valid[:, -3:].any()
    for unchanged in (
        stabilise(first, second, h, compensate=False),
        stabilise(first, second, np.eye(3), compensate=True),
    ):
        assert (unchanged[0] == first).all()
        assert (unchanged[1] == second).all()
        assert unchanged[2].all()


def test_a_motion_that_nothing_but_the_arm_made_is_not_believed() -> None:
    """The background stands still, a square moves by 8 pixels, and tracking took the square for the camera."""
    rng = np.random.default_rng(3)
    first = cv2.resize((rng.random((16, 16, 3)) * 255).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    second = first.copy()
    first[20:40, 10:30] = 200
    second[20:40, 18:38] = 200
    h = np.eye(3)
    h[0, 2] = 16 / 64
    before, after, valid = stabilise(first, second, h, compensate=True)
    assert (before == first).all() and (after == second).all() and valid.all()
    # the same motion is believed where all has moved by it
    moved = np.roll(first, 8, axis=1)
    before, _, valid = stabilise(first, moved, h, compensate=True)
    assert not valid.all() and (before != first).any()


def test_compensation_takes_the_cameras_motion_out_of_the_flow() -> None:
    rng = np.random.default_rng(2)
    import cv2

    world = cv2.resize((rng.random((16, 20, 3)) * 255).astype(np.uint8), (80, 64), interpolation=cv2.INTER_CUBIC)
    first, second = np.ascontiguousarray(world[:, :64]), np.ascontiguousarray(world[:, 5:69])
    h = np.eye(3)
    h[0, 2] = -10 / 64
    off, on = (pair_flow(*stabilise(first, second, h, compensate=compensate)[:2]) for compensate in (False, True))
    inside = (slice(None), slice(3, -3), slice(3, -4))
    assert np.median(off[0][3:-3, 3:-4]) == pytest.approx(-5 / 64 * 100, rel=0.1)
    assert np.abs(np.median(on[inside], axis=(1, 2))).max() < 0.3


def test_a_label_is_the_motion_that_the_probe_reads() -> None:
    """L5: an action that stays the same has moved the arm by as many of its steps as the gap has, not by 0."""
    t_s = np.arange(21) / 10
    truth = {"t_s": t_s, "action": np.stack([np.ones(21), -2 * np.ones(21)], 1), "state": np.stack([3 * t_s, t_s], 1)}
    from_s, to_s = np.array([0.05, 0.2, 1.8]), np.array([0.55, 0.7, 2.8])
    for feature, wanted in (("action", [5, -10]), ("state", [1.5, 0.5])):
        labels = SeenLabels(LabelSpec(feature, (1, 0)), frozenset({"a"}), 2)
        label = labels.of("a", truth, from_s, to_s)
        np.testing.assert_allclose(label[:2], [wanted[::-1]] * 2, atol=1e-6)
        np.testing.assert_allclose(label[:, ::-1], relative_motion(truth, feature, from_s, to_s - from_s), atol=1e-6)
        assert np.isnan(label[2]).all()  # where the recording has ended
        assert (
            np.isnan(labels.of("b", truth, from_s, to_s)).all() and np.isnan(labels.of("a", None, from_s, to_s)).all()
        )
    of_others = SeenLabels(LabelSpec("hand"), frozenset({"a"}), 2).of("a", truth, from_s, to_s)
    assert np.isnan(of_others).all(), "a body that has no such feature has no label"
    with pytest.raises(ValueError, match="has 2 dimensions in clip a, where the labels have 3"):
        SeenLabels(LabelSpec("state", (0, 1, 2)), frozenset({"a"}), 3).of("a", truth, from_s, to_s)


def test_a_share_of_clips_is_the_same_whoever_else_is_there() -> None:
    keys = [f"clip{i}" for i in range(4000)]
    chosen = {key for key in keys if chosen_share(key, 0.025, 0)}
    assert 60 < len(chosen) < 145
    assert chosen & set(keys[:100]) == {key for key in keys[:100] if chosen_share(key, 0.025, 0)}


def test_labels_are_those_of_whole_episodes() -> None:
    """L12: windows of one episode are labelled all or not at all."""
    rows = [ClipRow(f"{g}/{k}", f"video{g}", f"video{g}") for g in range(200) for k in range(5)]
    seen = SeenLabels.choose(LabelSpec("action", share=0.1), rows, 0, 1)
    counts = Counter(clip.split("/")[0] for clip in seen.clips)
    assert 8 < len(counts) < 35 and set(counts.values()) == {5}
    assert not SeenLabels.choose(LabelSpec(share=0.1), rows, 0, 0).clips


class Row:
    def __init__(self, group: str, embodiment: str) -> None:
        self.group, self.embodiment = group, embodiment


def test_whole_videos_are_held_out_of_every_embodiment() -> None:
    rows = [Row(f"{e}/{i}", e) for e in ("hand", "robot") for i in range(20) for _ in range(3)]
    training, held_out = split_groups(rows, share=0.15)  # type: ignore[arg-type]
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == 40
    for embodiment in ("hand", "robot"):
        assert 2 <= sum(name.startswith(embodiment) for name in held_out) <= 4
    more = [*rows, Row("robot/new", "robot")]
    assert set(split_groups(more, share=0.15)[1]) - {"robot/new"} == set(held_out)  # type: ignore[arg-type]


def test_holdout_patterns_say_when_they_match_nothing() -> None:
    rows = [Row(f"g/{i}", "") for i in range(4)]
    assert split_groups(rows, share=0.15, patterns=["g/[23]"])[1] == ["g/2", "g/3"]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'h/\\*' matches none of 4 groups"):
        split_groups(rows, share=0.15, patterns=["h/*"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing is left to train on"):
        split_groups(rows, share=0.15, patterns=["*"])  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [4.0, 10.0, 15.0, 20.0])
def test_ingest_measures_the_camera_of_the_pairs_that_extraction_asks_for_by_default(fps):
    frames = ((0, index / fps, numbered_frame(index)) for index in range(round(5 * fps)))
    (window,) = cut_windows(frames, IngestSettings(size=32))
    camera = camera_of(window, IngestSettings().camera_gap_s)
    first, second = pair_indices(window.t_s, PairConfig().extract_gap_s)
    asked = every_stride(window.t_s, first, ExtractionSettings.stride_s)
    np.testing.assert_array_equal(camera["first"], first[asked])
    np.testing.assert_array_equal(camera["second"], second[asked])
