"""Several corpora are read as one, and stay where they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import SUMMARY, Corpus
from corpora.clips.several import open_corpora
from tests.builders.corpora import write_corpus


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


def test_what_does_not_go_together_is_named(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "people", tmp_path / "painted")
    with pytest.raises(ValueError, match="5 clips are in more than one of the corpora.*painted"):
        open_corpora([home / "people", tmp_path / "painted"])
    shutil.copytree(home / "robot", tmp_path / "cropped")
    summary = json.loads((tmp_path / "cropped" / SUMMARY).read_text())
    (tmp_path / "cropped" / SUMMARY).write_text(json.dumps(summary | {"config": {"settings": {"fit": "crop"}}}))
    with pytest.raises(ValueError, match="made square in different ways.*cropped' crop"):
        open_corpora([home / "people", tmp_path / "cropped"])
    with pytest.raises(ValueError, match="is not a corpus"):
        open_corpora([home / "people", tmp_path])
    with pytest.raises(ValueError, match="no corpus is named"):
        open_corpora([])
