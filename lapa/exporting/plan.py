"""Which clips become which episodes, before any is decoded; those that become none are told and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from corpora.clips.corpus import Corpus
from corpora.store.told import listed
from lapa.exporting.rows import Left, Stretch, latents_by_clip, stretches, usual_rate
from lapa.exporting.settings import LatentRows
from lapa.latents import Latents


@dataclass(frozen=True)
class Plan:
    """Of a corpus and its latents."""

    fps: int
    """Rows a second."""
    width: int
    """Dimensions of the action."""
    codes: int
    """Codes a pair; 0: a continuous model's."""
    by_clip: Mapping[str, tuple[int, list[Stretch]]]
    """clip_id -> (number of its first episode, its episodes)."""
    left: Mapping[str, Left]
    """clip_id -> why it gives none."""

    @property
    def episodes(self) -> int:
        return sum(len(found) for _, found in self.by_clip.values())


def plan_episodes(corpus: Corpus, latents: Latents, rows: LatentRows) -> Plan:
    """Raises ValueError where the latents are of another corpus, where it knows no such state, and where no clip gives an
    episode."""
    latents.check_of(corpus)
    if rows.state and rows.state not in corpus.truth_features:
        raise ValueError(
            f"state '{rows.state}': the corpus knows {list(corpus.truth_features) or 'no ground truth'}; name one, or none"
        )
    of_clip = {clip.clip_id: clip for clip in latents_by_clip(latents)}
    fps = rows.fps or usual_rate(list(of_clip.values()))
    by_clip: dict[str, tuple[int, list[Stretch]]] = {}
    left: dict[str, Left] = {}
    number = 0
    for clip in of_clip.values():
        try:
            by_clip[clip.clip_id] = number, stretches(clip, fps, rows.min_s)
            number += len(by_clip[clip.clip_id][1])
        except Left as why:
            left[clip.clip_id] = why
    skipped = {record["clip_id"]: record for record in latents.summary.get("skipped", [])}
    for row in corpus.clips:
        if row.clip_id not in of_clip:
            told = skipped.get(row.clip_id, {}).get("reason", "the latents hold no pair of it")
            left[row.clip_id] = Left("no_latents", told)
    if not number:
        raise ValueError(f"no clip of {corpus} gives an episode at {fps} rows a second: {told_left(left)}")
    first = next(latents_by_clip(latents, rows.vector))
    return Plan(fps, first.vector.shape[1], first.codes.shape[1], by_clip, left)


def told_left(left: Mapping[str, Left]) -> str:
    """ "3 sparser_than_rows (latents 0.250 s apart ...), 1 no_latents (shorter_than_gap)"."""
    counts = Counter(why.reason for why in left.values())
    example = {why.reason: why.detail for why in left.values()}
    return listed([f"{count} {reason} ({example[reason]})" for reason, count in counts.most_common()])
