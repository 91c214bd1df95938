"""The map of the latents: which pairs are its points, where they lie, what colours them, and what is nearest to each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lapa.latents import Latents, LatentSample
from lapa.reporting import latent_map
from lapa.reporting.atlas import build_atlas
from lapa.reporting.card import Card
from lapa.reporting.latent_map import LatentMap, draw_map, draw_points, nearest_of_others, places_of
from lapa.reporting.palette import COLOURS, REST, Kinds, colours_of


def made_sample(clips: int, pairs: int, seed: int = 0) -> LatentSample:
    """Of `clips` clips with `pairs` pairs each; the first tenth are of another body, two clips of one source."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(np.arange(clips), pairs)
    count = len(clip)
    return LatentSample(
        clip_id=np.array([f"clip{k}" for k in clip]),
        group=np.array([f"source{k // 2}" for k in clip]),
        tier=np.full(count, "robot"),
        embodiment=np.where(clip < clips // 10, "hand", "arm"),
        text=np.full(count, ""),
        frame_index=np.tile(np.arange(pairs), clips),
        t_s=np.tile(np.arange(pairs) / 10.0, clips),
        gap_s=np.full(count, 0.5),
        codes=rng.integers(0, 5, (count, 3)).astype(np.int32),
        latent=rng.normal(size=(count, 6)).astype(np.float32),
        quantized=np.zeros((count, 6), np.float32),
        motion=rng.random(count).astype(np.float32),
        camera=np.tile(np.eye(3), (count, 1, 1)),
        camera_inlier_ratio=np.ones(count, np.float32),
        pairs=count,
        model_hashes=("made",),
    )


def mapped(sample: LatentSample, seed: int = 0) -> LatentMap:
    atlas = build_atlas(sample, None, prefer=np.zeros(len(sample), bool), seed=seed)
    return draw_map(sample, [], [unit.kinds for unit in atlas.units], seed)


def test_points_have_the_codes_that_are_in_the_latents(motion_card: Card, motion_latents: Path) -> None:
    assert motion_card.images is not None
    found = motion_card.images.map
    assert len(found.rows) == motion_card.sampled_pairs == 28 * 19
    stored = Latents(motion_latents).read(found.clips)
    codes = {(clip, round(t, 4)): row for clip, t, row in zip(stored.clip_id, stored.t_s, stored.codes, strict=True)}
    starts = motion_card.images.starts_s
    for position in range(2):
        kinds = next(each for each in found.colourings if each.name == f"codes of position {position + 1}")
        assert isinstance(kinds, Kinds)
        for k, t_s in enumerate(starts):
            own = codes[found.clips[found.clip[k]], round(t_s, 4)][position]
            assert kinds.labels[kinds.of[k]] == str(own)
    names = [each.name for each in found.colourings]
    assert {"body", "source", "two_link, the change of observation.state: size"} <= set(names)


def test_neighbours_are_those_of_a_slow_search_in_all_dimensions() -> None:
    sample = made_sample(24, 6)
    found = mapped(sample)
    latent = sample.latent[found.rows].astype(np.float64)
    for k in range(len(found.rows)):
        for labels, most, given in (
            (sample.group[found.rows], 4, found.near[k]),
            (sample.embodiment[found.rows], 3, found.near_bodies[k]),
        ):
            order = np.argsort(((latent - latent[k]) ** 2).sum(1), kind="stable")
            seen: dict[str, int] = {}
            for other in order.tolist():
                if labels[other] != labels[k]:
                    seen.setdefault(str(labels[other]), other)
            assert given == list(seen.values())[:most]
    assert found.near_bodies[0], "another body is there"


def test_a_point_alone_of_its_kind_and_points_all_of_one_kind() -> None:
    distances = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert nearest_of_others(distances, np.array(["a", "a", "b"]), 4) == [[2], [2], [0]]
    assert nearest_of_others(distances, np.array(["a", "a", "a"]), 4) == [[], [], []]


def test_points_are_few_and_drawn_evenly_over_bodies_sources_and_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_map, "POINTS", 60)
    monkeypatch.setattr(latent_map, "MAP_CLIPS", 20)
    sample = made_sample(100, 8)
    clips, rows = draw_points(sample, np.random.default_rng(0))
    assert len(clips) == len(set(clips)) == 20 and len(rows) == 60 and (np.diff(rows) > 0).all()
    assert set(sample.clip_id[rows]) == set(clips)
    _, of_clip = np.unique(sample.clip_id[rows], return_counts=True)
    assert (of_clip == 3).all()
    bodies = sample.embodiment[[np.flatnonzero(sample.clip_id == clip)[0] for clip in clips]]
    assert (bodies == "hand").sum() == 10  # a tenth of the clips, and half of those drawn
    again, same = draw_points(sample, np.random.default_rng(0))
    assert again == clips and (same == rows).all()
    other, _ = draw_points(sample, np.random.default_rng(1))
    assert other != clips


def test_a_map_is_the_same_every_time_and_of_other_points_by_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_map, "POINTS", 100)
    sample = made_sample(24, 6)
    one, two, other = mapped(sample), mapped(sample), mapped(sample, seed=1)
    np.testing.assert_array_equal(one.rows, two.rows)
    assert next(iter(one.places)) == "t-SNE" and "PCA" in one.places
    for name in one.places:
        np.testing.assert_array_equal(one.places[name], two.places[name])
    assert not np.array_equal(one.rows, other.rows)


def test_tsne_keeps_clusters_together_that_pca_cannot_tell_apart() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(8)
    label = np.repeat(np.arange(8), 25)
    latent = centres[label] + rng.normal(size=(200, 8))

    def torn(places: np.ndarray) -> float:
        apart = ((places[:, None] - places) ** 2).sum(-1)
        np.fill_diagonal(apart, np.inf)
        return float((label[apart.argmin(1)] != label).mean())

    found = places_of(latent, 0)
    assert torn(found["t-SNE"]) == 0 < torn(found["PCA"])


def test_latents_that_are_all_alike_or_few_have_no_tsne() -> None:
    assert set(places_of(np.ones((40, 5)), 0)) == {"PCA"}
    assert set(places_of(np.random.default_rng(0).normal(size=(5, 1)), 0)) == {"PCA"}
    sample = made_sample(24, 6)
    collapsed = mapped(replace(sample, latent=np.zeros_like(sample.latent)))
    assert set(collapsed.places) == {"PCA"} and collapsed.typical == 0


def test_umap_where_it_is_installed() -> None:
    pytest.importorskip("umap")
    assert places_of(np.random.default_rng(0).normal(size=(60, 5)), 0)["UMAP"].shape == (60, 2)


def test_the_frequent_have_colours_and_all_others_one() -> None:
    assert colours_of([5, 0, 1]) == [0, REST, 1]
    many = colours_of([*range(1, 31)])
    assert many[-len(COLOURS) :] == list(range(len(COLOURS))) and set(many[: -len(COLOURS)]) == {REST}
