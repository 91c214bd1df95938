"""The sample corpus that the repository ships: small, balanced, readable without GL, its known actions beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.episodes.lerobot_writer import BOOKKEEPING
from corpora.simulation.tasks import DEFAULT_TASKS, INSTRUCTIONS
from corpora.video.encode import EpisodeVideo
from corpora.video.encoding import VideoEncoding
from jobs.commands.sample_corpus import MAX_BYTES, PARTS, SampleCorpusConfig, part_config

SAMPLE = Path(__file__).resolve().parents[3] / "corpora" / "sample"
CAMERA = "observation.images.head"


def rows_of(part: str) -> dict[str, np.ndarray]:
    table = pq.read_table(SAMPLE / part / "data" / "chunk-000" / "file-000.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.schema.names}


def truth_of(part: str) -> dict[str, np.ndarray]:
    """The known actions, wherever they are kept."""
    if part.startswith("robot"):
        return rows_of(part)
    table = pq.read_table(SAMPLE / f"{part}.truth.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.schema.names}


def episodes_of(part: str) -> list[dict]:
    return pq.read_table(SAMPLE / part / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()


def pictures_of(part: str) -> np.ndarray:
    with av.open(str(SAMPLE / part / "videos" / CAMERA / "chunk-000" / "file-000.mp4")) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_it_is_at_most_four_megabytes_and_holds_nothing_else() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    names = {path.relative_to(SAMPLE).parts[0] for path in files}
    assert names == {*PARTS, "hand_still.truth.parquet", "hand_moving.truth.parquet", "README.md"}


@pytest.mark.parametrize("part", PARTS)
def test_every_task_has_as_many_episodes_and_every_row_a_frame(part: str) -> None:
    info = json.loads((SAMPLE / part / "meta" / "info.json").read_text())
    episodes = episodes_of(part)
    rows = rows_of(part)
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 20, len(episodes))
    tasks = Counter(row["tasks"][0] for row in episodes)
    assert tasks == {INSTRUCTIONS[task]: 8 for task in DEFAULT_TASKS}
    assert min(row["length"] for row in episodes) >= 25, (
        "long enough for a clip of a second and pairs half a second apart"
    )
    pictures = pictures_of(part)
    assert pictures.shape == (info["total_frames"], 96, 96, 3) == (len(rows["index"]), 96, 96, 3)
    assert pictures.std() > 20


@pytest.mark.parametrize("part", PARTS)
def test_actions_are_known_for_every_row(part: str) -> None:
    rows, truth = rows_of(part), truth_of(part)
    for name in ("episode_index", "frame_index", "timestamp"):
        np.testing.assert_array_equal(rows[name], truth[name])
    if part.startswith("hand"):
        assert set(rows) == set(BOOKKEEPING)
    assert truth["action"].shape == (len(rows["index"]), 4)
    # The hand follows its actions: x, y, z of the state move with the action's x, y, z.
    inside = np.diff(truth["episode_index"]) == 0
    moved = np.diff(truth["observation.state"][:, :3], axis=0)[inside]
    for axis in range(3):
        assert np.corrcoef(moved[:, axis], truth["action"][:-1][inside][:, axis])[0, 1] > 0.5
    assert truth["camera.motion"].any() == part.endswith("moving")


def test_no_two_episodes_are_alike() -> None:
    starts = {}
    for part in PARTS:
        truth = truth_of(part)
        for episode in np.unique(truth["episode_index"]):
            mine = truth["episode_index"] == episode
            starts[truth["action"][mine][:20].tobytes()] = (part, episode)
    assert len(starts) == 4 * 8 * len(DEFAULT_TASKS)


def test_the_appearances_differ_and_moving_cameras_move() -> None:
    middle = {part: pictures_of(part)[::7].astype(float) for part in PARTS}
    assert np.abs(middle["robot_still"].mean(0) - middle["hand_still"].mean(0)).mean() > 30

    def change_at_the_edge(part: str) -> float:
        # The lower left corner shows nothing but the table.
        return float(np.abs(np.diff(pictures_of(part)[:200, 70:, :12].astype(float), axis=0)).mean())

    assert change_at_the_edge("robot_moving") > 2 * change_at_the_edge("robot_still")
    assert change_at_the_edge("hand_moving") > 2 * change_at_the_edge("hand_still")


def test_encoding_the_same_pictures_again_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """With x264's macroblock tree one in twenty of these encodings differed."""
    pictures = pictures_of("hand_moving")[:30]
    seen = set()
    for _ in range(60):
        with EpisodeVideo(tmp_path / "video.mp4", 80, VideoEncoding()) as video:
            for picture in pictures:
                video.add(picture)
        seen.add((tmp_path / "video.mp4").read_bytes())
    assert len(seen) == 1


def test_its_recipe_is_the_code_that_is_committed() -> None:
    """simulate.json, written when it was made, has the settings that the recipe has now."""
    for part in PARTS:
        made = json.loads((SAMPLE / part / "simulate.json").read_text())["settings"]
        del made["versions"]
        assert made == part_config(SampleCorpusConfig(SAMPLE), part).settings()


@pytest.mark.gl
@pytest.mark.gl
@pytest.mark.parametrize("part", ["robot_still", "hand_moving"])
def test_simulated_again_its_first_episode_is_the_same(part: str, tmp_path: Path) -> None:
    import dataclasses

    from jobs.commands.simulate import run

    config = part_config(SampleCorpusConfig(SAMPLE), part)
    tasks = config.tasks[:1]
    again = dataclasses.replace(config, out=tmp_path / "again", tasks=tasks, episodes=1, truth=None, action_free=False)
    run(again)
    table = pq.read_table(tmp_path / "again" / "data" / "chunk-000" / "file-000.parquet")
    truth = truth_of(part)
    first = truth["episode_index"] == 0
    # Another CPU may round differently; what it then sees stays close.
    np.testing.assert_allclose(np.array(table["action"].to_pylist()), truth["action"][first], atol=1e-3)
    np.testing.assert_allclose(np.array(table["camera.motion"].to_pylist()), truth["camera.motion"][first], atol=1e-6)
    with av.open(str(next((tmp_path / "again" / "videos").rglob("*.mp4")))) as container:
        drawn = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    error = ((drawn.astype(float) - pictures_of(part)[: len(drawn)]) ** 2).mean()
    assert len(drawn) == first.sum() and (error == 0 or 10 * np.log10(255**2 / error) > 30)
