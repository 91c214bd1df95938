"""Many stretches of one file: it is read through once by each worker, which gives signs of life meanwhile."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from corpora.ingestion import stage
from corpora.ingestion.pipeline import make_corpus
from corpora.ingestion.pool import Turns
from corpora.ingestion.settings import IngestRun, IngestSettings
from corpora.ingestion.staged import clear_unfinished, read_staged, staged_path
from corpora.sources.source import File, Source, SourceDefaults
from corpora.video import probe as probing
from corpora.video.encode import pack_arrays
from tests.builders.videos import numbered_video


@pytest.fixture
def video(tmp_path) -> Path:
    return numbered_video(tmp_path / "v.mp4", 90)


def staged(tmp_path: Path, sources: list[Source], beats: list[int]) -> list[str]:
    """The reasons of their rows, one after another in this process."""
    staging = tmp_path / "staging"
    clear_unfinished(staging)
    settings = dataclasses.asdict(IngestSettings(size=64))

    def heartbeat() -> None:
        beats.append(1)

    for source in sources:
        task = {"source": source.to_json(), "settings": settings, "staging": str(staging), "seed": 0}
        stage.stage_source(task, heartbeat)
    return [row.row.reason for source in sources for row in read_staged(staged_path(staging, source))]


def test_a_file_is_probed_and_hashed_once_however_many_stretches_are_listed(tmp_path, video, monkeypatch):
    """Also where the files of several cameras take turns."""
    files = [video, *(Path(f"{video}.{number}.mp4") for number in range(7))]
    for copy in files[1:]:
        copy.write_bytes(video.read_bytes() + bytes([len(copy.name)]))
    read: list[str] = []
    for name, function in (("probe", stage.probe), ("_hash", stage._hash)):
        monkeypatch.setattr(
            stage, name, lambda path, alive, to=function, name=name: (read.append(name), to(path, alive))[1]
        )
    stretches = [
        Source(str(path), str(path), File.at(path), span_s=(start, start + 1.5))
        for start in (0.0, 1.5, 3.0)
        for path in files
    ]
    assert set(staged(tmp_path, stretches, [])) == {""}
    assert sorted(read) == ["_hash"] * len(files) + ["probe"] * len(files)


def test_a_file_that_has_changed_is_probed_again(tmp_path, video):
    sources = [Source("v", "v", File.at(video))]
    assert staged(tmp_path, sources, []) == [""]
    numbered_video(video, 2)
    assert staged(tmp_path, [Source("v", "v", File.at(video))], []) == ["too_short"]


def test_a_large_file_shows_life_while_it_is_hashed_and_probed(tmp_path, video, monkeypatch):
    monkeypatch.setattr(stage, "HASHED_AT_ONCE", 1000)
    monkeypatch.setattr(probing, "ALIVE_BYTES", 1000)
    beats: list[int] = []
    probing.probe(video, lambda: beats.append(1))
    assert len(beats) > 10
    few = len(beats)
    staged(tmp_path, [Source("v", "v", File.at(video))], beats)
    assert len(beats) > 3 * few


def test_no_array_is_made_up_beside_those_that_are_packed(monkeypatch):
    """Before 2.2 NumPy stores its own arguments as arrays, so that it may be given none."""
    savez, given = np.savez, []
    monkeypatch.setattr(np, "savez", lambda file, **arrays: (given.append(set(arrays)), savez(file, **arrays)))
    pack_arrays({"h": np.zeros(2)})
    assert given == [{"h"}]
    with np.load(io.BytesIO(pack_arrays({"h": np.zeros(2)})), allow_pickle=False) as packed:
        assert packed.files == ["h"]
    with pytest.raises(AssertionError):
        pack_arrays({"h": np.array([None])})


def stretches_of(files: list[str], each: int) -> list[Source]:
    """As the files of several cameras take turns."""
    return [
        Source(f"{name}-{n}", name, File(f"/{name}.mp4"), span_s=(n, n + 1.0)) for n in range(each) for name in files
    ]


def test_stretches_of_one_file_go_to_one_worker_while_there_are_others():
    turns = Turns(iter(stretches_of(["a", "b", "c"], 20)))
    files: dict[int, list[str]] = {0: [], 1: []}
    names = set()
    for worker in [0] * 5 + [1, 0] * 40:
        source = turns.take(worker)
        if source is not None:
            files[worker].append(source.group)
            names.add(source.name)
    assert len(names) == sum(map(len, files.values())) == 60
    changes = [[file for file, _ in itertools.groupby(files[worker])] for worker in (0, 1)]
    assert changes == [["a", "c"], ["b", "c"]]  # the last file is shared when nothing else is left


def test_one_long_file_is_worked_on_by_all():
    turns = Turns(iter(stretches_of(["a"], 6)))
    assert [turns.take(worker).name for worker in (0, 1, 2, 0, 1, 2)] == [f"a-{n}" for n in range(6)]
    assert turns.take(0) is None


def test_however_the_stretches_are_shared_out_each_file_is_read_through_once(tmp_path, video):
    """C10: by one of the workers, and the clips are those of one worker."""
    other = numbered_video(tmp_path / "w.mp4", 90, seed=5)
    lines = [
        {"path": str(path), "start_s": start, "end_s": start + 1.0} for start in range(5) for path in (video, other)
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    function = "tests.corpora.ingestion.test_shared_files:counting"
    settings = IngestSettings(size=64, camera_gap_s=0.2)
    made = [
        make_corpus(
            [str(tmp_path / "list.jsonl")],
            settings,
            SourceDefaults(),
            IngestRun(tmp_path / f"c{n}", workers=n, function=function),
        )
        for n in (1, 2)
    ]
    for number, summary in enumerate(made, 1):
        probed = (tmp_path / f"c{number}.probed").read_text().split()
        assert len(probed) <= 2 + (number - 1)  # the second worker may help with the last file
        assert set(probed) == {"v.mp4", "w.mp4"}
        assert summary["clips"] == made[0]["clips"] > 0


def counting(task: dict, heartbeat) -> dict:
    if not hasattr(counting, "done"):
        counting.done, real = True, stage.probe

        def probe(path, alive):
            with Path(f"{Path(task['staging']).parent}.probed").open("a") as file:
                file.write(f"{Path(path).name}\n")
            return real(path, alive)

        stage.probe = probe
    return stage.stage_source(task, heartbeat)
