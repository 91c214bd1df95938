"""Near-duplicates: copies however encoded are found; the same scene with another motion is not one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from corpora.video import duplicates as near_duplicates
from corpora.video.duplicates import DIMENSIONS, Candidate, DuplicateIndex, embed_clip
from corpora.video.settings import DuplicateSettings
from tests.builders.videos import numbered_frame, textured


def clip(seed: int, *, motion: int = 0, count: int = 60, fps: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    """A scene (by `seed`) in which a block goes its way (by `motion`)."""
    scene = textured(128, 128, seed)
    rng = np.random.default_rng(motion)
    path = np.cumsum(np.convolve(rng.normal(0, 6, (count + 10) * 2), np.ones(6) / 6, "same").reshape(2, -1), axis=1)
    frames = []
    for index in range(count):
        image = scene.copy()
        x, y = np.clip(48 + path[:, index], 0, 100).astype(int)
        image[y : y + 24, x : x + 24] = (220, 180, 120)
        frames.append(image)
    return np.stack(frames), np.arange(count) / fps


def similar(one: np.ndarray, other: np.ndarray) -> bool:
    index = DuplicateIndex(DuplicateSettings())
    index.add(Candidate("a", "one", 0.0, 4.0), one)
    return index.find(Candidate("b", "two", 0.0, 4.0), other) is not None


def changed(frames: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    if how == "noise":
        return np.clip(frames + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)
    if how == "jpeg":
        code = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 30])[1] for frame in frames]
        return np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in code])
    if how == "smaller":
        return np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in frames])
    return np.clip(frames * 0.85 + 12, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["noise", "jpeg", "smaller", "exposure"])
@pytest.mark.parametrize("seed", range(4))
def test_copies_are_found(how, seed):
    frames, t_s = clip(seed, motion=seed)
    assert similar(embed_clip(frames, t_s), embed_clip(changed(frames, how, np.random.default_rng(seed)), t_s))


def test_a_copy_at_another_frame_rate_is_found():
    frames, t_s = clip(1, motion=1, count=90, fps=30.0)
    assert similar(embed_clip(frames, t_s), embed_clip(frames[::2], t_s[::2]))


def test_the_same_scene_with_another_motion_is_kept():
    embeddings = [embed_clip(*clip(0, motion=motion)) for motion in range(12)]
    for number, one in enumerate(embeddings):
        assert not any(similar(one, other) for other in embeddings[number + 1 :])


def test_the_motion_of_one_scene_in_another_is_kept():
    assert not similar(embed_clip(*clip(0, motion=1)), embed_clip(*clip(5, motion=1)))


def test_neighbouring_windows_of_one_video_are_kept():
    frames = np.stack([numbered_frame(i, seed=3, width=128, height=128) for i in range(180)])
    index = DuplicateIndex(DuplicateSettings())
    for number in range(3):
        part = slice(60 * number, 60 * number + 60)
        embedding = embed_clip(frames[part], np.arange(60) / 15)
        assert index.find(Candidate(str(number), "v", 4.0 * number, 4.0 * number + 4), embedding) is None
        index.add(Candidate(str(number), "v", 4.0 * number, 4.0 * number + 4), embedding)


def test_cameras_of_one_episode_are_not_each_others_duplicates():
    embedding = embed_clip(*clip(0))
    index = DuplicateIndex(DuplicateSettings())
    index.add(Candidate("left", "episode", 0.0, 4.0), embedding)
    assert index.find(Candidate("right", "episode", 0.0, 4.0), embedding) is None
    assert index.find(Candidate("later", "episode", 4.0, 8.0), embedding) == ("left", pytest.approx(1.0, abs=1e-5))
    assert index.find(Candidate("left", "episode", 0.0, 4.0), embedding) == ("left", 1.0)


def test_what_acted_differently_is_kept_however_alike_it_looks():
    embedding = embed_clip(*clip(0))
    index = DuplicateIndex(DuplicateSettings())
    index.add(Candidate("a", "one", 0.0, 4.0, "these actions"), embedding)
    assert index.find(Candidate("b", "two", 0.0, 4.0, "other actions"), embedding) is None
    assert index.find(Candidate("b", "two", 0.0, 4.0, "these actions"), embedding) is not None
    assert index.find(Candidate("b", "two", 0.0, 4.0), embedding) is not None  # a copy without its actions


def test_large_corpora_are_searched_as_small_ones(monkeypatch):
    """The graph that replaces the exact search finds what a search through everything finds."""
    monkeypatch.setattr(near_duplicates, "FLAT_LIMIT", 64)
    rng = np.random.default_rng(0)
    known = rng.normal(size=(500, DIMENSIONS)).astype(np.float32)
    cells = near_duplicates.GRID**2
    for part in (slice(0, cells), slice(cells, None)):
        known[:, part] /= np.linalg.norm(known[:, part], axis=1, keepdims=True) * np.sqrt(2)
    index = DuplicateIndex(DuplicateSettings())
    for number, embedding in enumerate(known):
        assert index.find(Candidate(str(number), str(number), 0, 1), embedding) is None
        index.add(Candidate(str(number), str(number), 0, 1), embedding)
    for number in range(0, 500, 7):
        found = index.find(
            Candidate("new", "new", 0, 1), known[number] + rng.normal(0, 1e-3, DIMENSIONS).astype(np.float32)
        )
        assert found is not None
        assert found[0] == str(number)
