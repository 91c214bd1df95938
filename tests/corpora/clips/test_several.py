"""Several corpora are read as one, and stay where they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import SUMMARY, Corpus
from corpora.clips.manifest import ClipRow
from corpora.clips.several import open_corpora
from corpora.clips.survey import Count, Counts
from tests.builders.corpora import write_corpus


def told(corpus: Path, **record: object) -> Path:
    """A made corpus whose ingest.json says this, too."""
    summary = json.loads((corpus / SUMMARY).read_text())
    (corpus / SUMMARY).write_text(json.dumps(summary | record))
    return corpus


def ingested(corpus: Path, out: Path) -> Path:
    """A copy of a made corpus, whose ingest.json tells of a dropped clip as well."""
    counts = Counts()
    for row in Corpus(corpus).clips:
        counts.add(row)
    counts.add(ClipRow("f" * 16, "f.mp4", "f", start_s=0.0, end_s=900.0, reason="too_short"))
    counts.sources = len(Corpus(corpus).clips)
    return told(shutil.copytree(corpus, out), **counts.to_json())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people, robot: two corpora, whose shards have the same names."""
    home = tmp_path_factory.mktemp("several")
    write_corpus(home / "people", range(5))
    write_corpus(home / "robot", range(20, 24), truth=True, embodiment="arm")
    return home


def test_the_clips_of_all_are_there_as_each_has_them(home: Path) -> None:
    parts = [Corpus(home / "people"), Corpus(home / "robot")]
    both = open_corpora([home / "people", home / "robot"])
    assert [row.clip_id for row in both.clips] == [row.clip_id for part in parts for row in part.clips]
    assert {row.embodiment for row in both.clips} == {"hand", "arm"} and both.truth_features == {"observation.state": 3}
    assert sorted(both.truth()) == sorted(parts[1].truth()) and len(both.times()) == 9
    assert len(list(both.rows())) == sum(len(list(part.rows())) for part in parts)
    found = {clip.row.clip_id: clip.frames for clip in both.read()}
    for part in parts:
        for clip in part.read():
            assert np.array_equal(found.pop(clip.row.clip_id), clip.frames)
    assert not found


def test_its_identity_is_of_the_corpora_and_not_of_their_order_or_place(home: Path, tmp_path: Path) -> None:
    both, turned = open_corpora([home / "people", home / "robot"]), open_corpora([home / "robot", home / "people"])
    shutil.copytree(home / "robot", tmp_path / "moved")
    assert both.identity == turned.identity == open_corpora([home / "people", tmp_path / "moved"]).identity
    assert both.identity not in (Corpus(home / "people").identity, Corpus(home / "robot").identity)
    assert type(open_corpora(home / "people")) is Corpus is type(open_corpora([home / "people"]))


def test_what_is_of_one_is_refused_of_several_and_what_adds_up_is_added(home: Path, tmp_path: Path) -> None:
    parts = [Corpus(ingested(home / name, tmp_path / name)) for name in ("people", "robot")]
    both = open_corpora([part.folder for part in parts])
    whole = both.survey()
    assert [whole.sources, whole.kept.count] == [sum(each) for each in ((5, 4), (5, 4))]
    assert whole.embodiments == parts[0].survey().embodiments | parts[1].survey().embodiments
    assert list(whole.embodiments) == ["hand", "arm"] and list(whole.dropped.values()) == [Count(2, 0.5)]
    for what in ("folder", "summary"):
        with pytest.raises(ValueError, match="people', '.*robot' are several corpora"):
            getattr(both, what)
    with pytest.raises(ValueError, match="people', '.*robot' has none of these ids"):
        list(both.read(["nowhere"]))
    assert both.view is None
    painted = {"agent": "none", "background": "before", "margin": 0.02, "dot_radius": 0.0, "agent_identity": ""}
    told(tmp_path / "robot", config={"settings": {"crosspaint": painted}})
    with pytest.raises(
        ValueError, match="not alike.*people': as the camera saw them; .*robot': painted.*paint them alike"
    ):
        _ = open_corpora([part.folder for part in parts]).view


@pytest.mark.parametrize("widths", [(3, 7), (7, 3)])
def test_of_a_feature_the_dimensions_that_all_have_count(home: Path, tmp_path: Path, widths: tuple[int, int]) -> None:
    """Not those of whichever corpus is named last."""
    for name, width in zip(("people", "robot"), widths, strict=True):
        told(shutil.copytree(home / name, tmp_path / name), truth_features={"observation.state": width})
    both, counts = open_corpora([tmp_path / "people", tmp_path / "robot"]), Counts()
    for row, width in zip(both.clips, widths, strict=False):  # within one corpus, too
        counts.add_truth(row, {"observation.state": width}, "")
    assert both.truth_features == counts.truth_features == {"observation.state": 3}


def test_what_does_not_go_together_is_named(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "people", tmp_path / "painted")
    with pytest.raises(ValueError, match="5 clips are in more than one of the corpora.*painted"):
        open_corpora([home / "people", tmp_path / "painted"])
    shutil.copytree(home / "robot", tmp_path / "cropped")
    told(tmp_path / "cropped", config={"settings": {"fit": "crop"}})
    with pytest.raises(ValueError, match="made square in different ways.*cropped' crop"):
        open_corpora([home / "people", tmp_path / "cropped"])
    with pytest.raises(ValueError, match="is not a corpus"):
        open_corpora([home / "people", tmp_path])
    with pytest.raises(ValueError, match="no corpus is named"):
        open_corpora([])
