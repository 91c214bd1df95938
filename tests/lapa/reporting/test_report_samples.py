"""What a report measures on: its sample, the groups it holds out, its baselines' pairs, cuts and strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora.clips.corpus import Corpus
from corpora.clips.manifest import ClipRow
from lapa.extraction.extract import extract
from lapa.latents import Latents
from lapa.pairs.reader import PairReader
from lapa.reporting.checks.reconstruction import cut_pairs, other_pairs, psnr
from lapa.reporting.clip_pairs import read_pairs
from lapa.reporting.measure import training_pairs
from lapa.reporting.probes.baselines import change_images
from lapa.reporting.probes.motion import choose_holdout, find_known_motion
from tests.builders.reports import CONFIG, FRAMES, GAP, make_latents


def test_baselines_learn_from_pairs_that_the_model_was_trained_on() -> None:
    held = np.array([True, False, True, False])
    assert training_pairs(held).tolist() == [False, True, False, True]
    assert training_pairs(np.ones(4, bool)).all() and training_pairs(np.zeros(4, bool)).all()


def test_named_test_groups_and_a_warning_where_they_were_trained_on() -> None:
    groups = np.repeat([f"set/episode_{k}" for k in range(6)], 5)
    names = set(groups)
    kept = {"set/episode_4", "set/episode_5"}
    common = {"seed": 0}
    plain = choose_holdout(groups, trained=names - kept, held_out=kept, patterns=(), **common)
    assert plain.kind == "held out of training" and not plain.warnings and set(plain.test_groups) == kept
    named = choose_holdout(groups, trained=names - kept, held_out=kept, patterns=("*_[01]",), **common)
    assert named.test_groups == ["set/episode_0", "set/episode_1"] and "in the model's training" in named.warnings[0]
    assert not set(groups[named.splits[0].train]) & set(groups[named.splits[0].test])
    folded = choose_holdout(groups, trained=names, held_out=set(), patterns=(), **common)
    assert folded.kind == "k-fold" and len(folded.splits) == 5 and "held out of training" in folded.warnings[0]
    with pytest.raises(ValueError, match="match none of 6 groups"):
        choose_holdout(groups, trained=names, held_out=set(), patterns=("other",), **common)
    with pytest.raises(ValueError, match="match one group, set/episode_3: no interval comes from one"):
        choose_holdout(groups, trained=names, held_out=set(), patterns=("*_3",), **common)
    with pytest.raises(ValueError, match="match every group"):
        choose_holdout(groups, trained=names, held_out=set(), patterns=("*",), **common)


def test_a_sample_is_bounded_and_the_same_every_time(report_corpus: Path, report_lam: Path, tmp_path: Path) -> None:
    latents = make_latents(tmp_path / "latents", report_corpus, report_lam, "random")
    clips = Corpus(report_corpus).clips
    known = [row.clip_id for row in clips]
    robots = [row.clip_id for row in clips if row.tier == "robot"]
    opened = Latents(latents)
    one, two = (opened.sample(200, 4, clips=known, first=robots) for _ in range(2))
    np.testing.assert_array_equal(one.latent, two.latent)
    assert len(one) == 200 and one.pairs == 28 * (FRAMES - GAP)
    assert np.isin(one.clip_id, robots).sum() == 150
    assert set(one.embodiment) <= {"two_link", "human"}
    whole = opened.sample(10**6, clips=known, first=robots)
    assert len(whole) == whole.pairs == len(opened)
    with pytest.raises(ValueError, match="none with a gap near 3 s"):
        opened.sample(200, clips=known, gap_s=3.0)
    with pytest.raises(ValueError, match="give the corpus"):
        opened.sample(200, clips=["elsewhere"])
    some = opened.read(robots[:2])
    assert set(some.clip_id) == set(robots[:2])
    np.testing.assert_array_equal(some.latent, whole.latent[np.isin(whole.clip_id, robots[:2])])
    with pytest.raises(ValueError, match="no latents of the 1 clips"):
        opened.read(["elsewhere"])


def test_cuts_join_neighbouring_shots_or_strangers() -> None:
    def row(group: str, shot: int, start: float) -> ClipRow:
        return ClipRow(f"{group}{shot}{start}", group, group, start_s=start, shot=shot)

    rng = np.random.default_rng(0)
    many = [row(f"video{k}", shot, 10.0 * shot + part) for k in range(8) for shot in range(2) for part in (0.0, 5.0)]
    pairs, kind = cut_pairs(many, rng, 100)
    assert kind == "neighbouring shots" and len(pairs) == 8
    for a, b in pairs:
        assert many[a].group == many[b].group and many[a].shot + 1 == many[b].shot
        assert many[a].start_s == 5.0 and many[b].start_s == 10.0  # the last window of one, the first of the next
    pairs, kind = cut_pairs([row(f"video{k}", 0, 0.0) for k in range(5)], rng, 12)
    assert kind == "clips of different sources" and all(a != b for a, b in pairs) and len(pairs) <= 12


def test_baselines_see_the_stabilised_frames_that_the_latent_sees(
    report_corpus: Path, report_lam: Path, tmp_path: Path
) -> None:
    """L11: the videos of hands are seen by a camera that slides; in a difference of raw frames that is most of it."""
    latents = extract(report_lam, report_corpus, tmp_path, stride_s=0.5)
    change = {}
    for compensated in (True, False):
        reader = PairReader(replace(CONFIG.pair, camera_compensation=compensated))
        pairs = [
            clip
            for clip in read_pairs(Corpus(report_corpus), latents.sample(10**4), reader)
            if clip.row.tier == "human"
        ]
        change[compensated] = np.mean([np.median(np.abs(change_images(clip.thumbs))) for clip in pairs])
    assert change[True] < 0.2 * change[False]


def test_other_pairs_are_of_other_groups() -> None:
    groups = np.repeat(["a", "b", "c"], 10)
    other = other_pairs(groups, np.random.default_rng(0))
    assert (groups[other] != groups).all()
    alone = other_pairs(np.repeat(["a"], 10), np.random.default_rng(0))
    assert (alone != np.arange(10)).all()
    assert psnr(0.01) == pytest.approx(20)


def test_a_body_of_which_no_motion_is_recorded_is_told_in_a_whole_sentence(motion_latents: Path) -> None:
    sample = Latents(motion_latents).sample(100)
    nothing = {clip: {"t_s": np.arange(3.0)} for clip in np.unique(sample.clip_id).tolist()}
    known, notes = find_known_motion(sample, nothing, None, ())
    assert known == [] and notes
    assert all(note.endswith(": no motion of this body is recorded") for note in notes)
    with pytest.raises(ValueError, match="the corpus knows no feature"):
        find_known_motion(sample, nothing, "hand", ())
