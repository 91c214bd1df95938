"""`giza export` of latents: what is read back is what was extracted, clips without latents are told, a killed export resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from corpora.clips.corpus import Corpus
from corpora.episodes.lerobot import LeRobotDataset
from corpora.episodes.lerobot_writer import LeRobotWriter
from jobs.commands.export import ExportConfig, run
from lapa.exporting.dataset import CAMERA
from lapa.exporting.rows import ClipLatents, Left, latents_by_clip, stretches
from lapa.foreign.bring import bring_in
from lapa.foreign.exported import CODES, GAP, TIME
from lapa.latents import Latents
from tests.builders.corpora import write_corpus
from tests.builders.datasets import opened
from tests.builders.exports import exported, files_of, pictures_of
from tests.builders.foreign import measured_latents

SEEDS = (1, 2, 3, 5, 6)
"""Seed 3 is shorter than a gap: a clip without latents."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and random latents of it, of every frame, with two codes."""
    root = tmp_path_factory.mktemp("made")
    corpus = write_corpus(root / "corpus", SEEDS, truth=True)
    return corpus, measured_latents(root / "latents", corpus)


@pytest.fixture(scope="module")
def v3(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("v3") / "data", *made, licence="mit")


def truth(latents: Path) -> dict[str, ClipLatents]:
    return {clip.clip_id: clip for clip in latents_by_clip(Latents(latents), "latent")}


def test_rows_are_the_latents_of_their_frames(made: tuple[Path, Path], v3: Path) -> None:
    latents = made[1]
    info = json.loads((v3 / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["features"]["action"]["shape"]) == ("v3.0", 10, [8])
    rows = pq.read_table(v3 / "data" / "chunk-000" / "file-000.parquet").to_pylist()
    episodes = [json.loads(line) for line in (v3 / "meta" / "giza_episodes.jsonl").read_text().splitlines()]
    assert [each["licence"] for each in episodes] == ["mit"] * 4
    known = truth(latents)
    for row in rows:
        mine = known[episodes[row["episode_index"]]["clip_id"]]
        at = int(np.abs(mine.t_s - row[TIME]).argmin())
        assert (row[TIME], row[GAP]) == (mine.t_s[at], mine.gap_s[at])
        np.testing.assert_array_equal(row["action"], mine.vector[at])
        np.testing.assert_array_equal(row[CODES], mine.codes[at])
        start = episodes[row["episode_index"]]["start_s"]
        assert abs(row[TIME] - start - row["timestamp"]) <= 0.5 / 10 * 1.25 + 1e-6
    assert len(rows) == sum(len(clip.t_s) for clip in known.values())  # the steady ones: a row for each pair
    stats = json.loads((v3 / "meta" / "stats.json").read_text())["action"]
    assert set(stats) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    np.testing.assert_allclose(stats["q10"], np.quantile([row["action"] for row in rows], 0.1, axis=0))
    assert info["features"]["observation.state"]["info"]["degenerate_dims"] == [0, 1]
    assert "degenerate_dims" not in info["features"]["action"]["info"]


def test_images_are_those_of_the_pairs_first_frames(made: tuple[Path, Path], v3: Path) -> None:
    clips = {clip.row.clip_id: clip for clip in Corpus(made[0]).read()}
    facts = [json.loads(line) for line in (v3 / "meta" / "giza_episodes.jsonl").read_text().splitlines()]
    rows = pq.read_table(v3 / "data" / "chunk-000" / "file-000.parquet", columns=["episode_index", TIME]).to_pylist()
    images = pictures_of(v3 / "videos" / CAMERA / "chunk-000" / "file-000.mp4")
    assert len(images) == len(rows)
    for image, row in zip(images, rows, strict=True):
        clip = clips[facts[row["episode_index"]]["clip_id"]]
        frames = clip.frames.astype(int)
        off = np.abs(frames - image).mean((1, 2, 3))
        first = int(np.abs(clip.t_s - row[TIME]).argmin())
        assert off[first] < 4 and off[first] <= off.min() + 0.3


def test_clips_without_latents_are_told_and_counted(v3: Path) -> None:
    told = json.loads((v3 / "meta" / "giza.json").read_text())
    assert (told["clips"], told["clips_left_out"], told["left_out_reasons"]) == (4, 1, {"no_latents": 1})
    assert told["left_out"][0]["source"] == "video3.mp4"
    assert (told["gap_s"], told["model_hash"], told["report"], told["licences"]) == (0.5, "made", None, {"mit": 4})
    assert "video3" not in (v3 / "README.md").read_text() and "license: mit" in (v3 / "README.md").read_text()


def test_the_export_is_read_again_as_latents(made: tuple[Path, Path], v3: Path, tmp_path: Path) -> None:
    corpus, latents = made
    again = bring_in(v3, Corpus(corpus), tmp_path / "again")
    back, known = truth(again.folder), truth(latents)
    assert back.keys() == known.keys()
    for name, clip in known.items():
        np.testing.assert_allclose(back[name].t_s, clip.t_s, atol=1e-3)
        np.testing.assert_array_equal(back[name].vector, clip.vector)
        np.testing.assert_array_equal(back[name].codes, clip.codes)


def test_a_killed_export_resumes_to_the_same_bytes(
    made: tuple[Path, Path], v3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = LeRobotWriter.episode, []

    def killed(self: LeRobotWriter, episode: int, task: str) -> object:
        calls.append(episode)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, episode, task)

    with monkeypatch.context() as patch:
        patch.setattr(LeRobotWriter, "episode", killed)
        with pytest.raises(KeyboardInterrupt):
            exported(tmp_path / "data", *made, licence="mit")
    assert not LeRobotDataset.exists(tmp_path / "data")
    exported(tmp_path / "data", *made, licence="mit")
    assert files_of(tmp_path / "data") == files_of(v3)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "README.md",
        "data",
        "export.json",
        "meta",
        "videos",
    }
    config = ExportConfig(out=tmp_path / "data", corpus=made[0], latents=made[1], licence="mit")
    assert run(config)["already_finished"]
    with pytest.raises(ValueError, match=r"licence mit there and cc0-1.0 here.*another --out"):
        exported(tmp_path / "data", *made, licence="cc0-1.0")


def test_a_clip_that_does_not_decode_costs_itself_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(made[0], corpus)
    damaged = Corpus(corpus).clips[0]
    shard = corpus / "shards" / damaged.shard
    data = bytearray(shard.read_bytes())
    at = data.find(b"mdat")
    data[at + 40 : at + 800] = bytes(760)
    shard.write_bytes(bytes(data))
    out = exported(tmp_path / "data", corpus, made[1])
    told = json.loads((out / "meta" / "giza.json").read_text())
    assert told["left_out_reasons"] == {"no_latents": 1, "damaged": 1}
    assert [episode.index for episode in opened(out).episodes] == [0, 1, 2]


def test_groot_reads_modality_and_statistics_without_count(made: tuple[Path, Path], tmp_path: Path) -> None:
    out = exported(tmp_path / "data", *made, format="gr00t")
    modality = json.loads((out / "meta" / "modality.json").read_text())
    assert modality["annotation"] == {"human.task_description": {"original_key": "task_index"}}
    assert modality["action"]["action"] == {"start": 0, "end": 8, "original_key": "action"}
    stats = json.loads((out / "meta" / "stats.json").read_text())
    assert all("count" not in found and {"q01", "q99"} <= set(found) for found in stats.values())
    assert {path.name for path in out.iterdir()} == {"README.md", "data", "export.json", "meta", "videos"}
    assert len(list((out / "videos").rglob("episode_*.mp4"))) == 4


def test_the_state_of_a_robot_goes_with_its_latents(made: tuple[Path, Path], tmp_path: Path) -> None:
    out = exported(tmp_path / "data", *made, state="observation.state")
    rows = pq.read_table(out / "data" / "chunk-000" / "file-000.parquet")
    known = Corpus(made[0]).truth()
    fact = json.loads((out / "meta" / "giza_episodes.jsonl").read_text().splitlines()[0])
    mine = known[fact["clip_id"]]
    at = int(np.abs(mine["t_s"] - rows.column(TIME)[0].as_py()).argmin())
    np.testing.assert_array_equal(rows.column("observation.state")[0].as_py(), mine["observation.state"][at])
    with pytest.raises(ValueError, match="'elbow': the corpus knows.*observation.state"):
        exported(tmp_path / "other", *made, state="elbow")


def clip_at(t_s: list[float]) -> ClipLatents:
    count = len(t_s)
    return ClipLatents(
        "c", np.array(t_s), np.full(count, 0.5), np.zeros((count, 0), np.int64), np.zeros((count, 2), np.float32)
    )


def test_an_episode_ends_where_latents_are_missing() -> None:
    found = stretches(clip_at([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 9.0]), 10, 0.5)
    assert [each.chosen.tolist() for each in found] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert [each.start_s for each in found] == [0.0, 3.0]
    thinned = stretches(clip_at([k / 30 for k in range(61)]), 10, 0.5)
    assert thinned[0].chosen.tolist() == list(range(0, 61, 3)) and thinned[0].off_s < 1e-9
    with pytest.raises(Left, match=r"sparser_than_rows: latents 0.250 s apart, rows 0.100 s: give --fps 4"):
        stretches(clip_at([0.25 * k for k in range(20)]), 10, 0.5)
    with pytest.raises(Left, match="too_short: 3 latents over 0.20 s"):
        stretches(clip_at([0.0, 0.1, 0.2]), 10, 0.5)


def test_what_does_not_go_together_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --latents and --corpus, or --dataset"):
        ExportConfig(out=tmp_path)
    with pytest.raises(ValueError, match="give both"):
        ExportConfig(out=tmp_path, latents=made[1])
    (tmp_path / "report").mkdir()
    record = {"model_hash": "other", "gap_s": 0.5, "corpus_hash": "", "verdicts": {}}
    (tmp_path / "report" / "report.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is of the model other.*give the report of these latents"):
        exported(tmp_path / "data", *made, report=tmp_path / "report")
    verdict = {"level": "cannot tell", "title": "Cannot tell", "reasons": [{"kind": "concern", "text": "No actions."}]}
    record |= {"model_hash": "made", "verdicts": {"hand": verdict}}
    (tmp_path / "report" / "report.json").write_text(json.dumps(record))
    out = exported(tmp_path / "data", *made, report=tmp_path / "report")
    assert json.loads((out / "meta" / "giza.json").read_text())["report"]["verdicts"]["hand"] == verdict
    assert "**Cannot tell**. No actions." in (out / "README.md").read_text()
