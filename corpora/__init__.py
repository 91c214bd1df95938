"""Corpora: from any video to clean clips, robots' episodes, and the mixtures (data pyramids) that policies learn from.

    import corpora

    corpus = corpora.ingest("~/videos", out="corpus")          # files, folders, globs, lists, tars, LeRobot datasets
    print(corpus.survey())                                      # clips, hours, and why the rest was dropped
    for clip in corpus.read(limit=3):                           # decoded: frames [T, H, W, 3], times, camera's motion
        print(clip.row.clip_id, clip.row.text, clip.frames.shape, clip.t_s[-1] - clip.t_s[0])
    truth = corpus.truth()                                      # clip id -> states and actions, where they are known

    chosen = corpora.EpisodeSelection(demos=3, cameras=("head",), state=("7:14",))
    episodes = corpora.open_episodes("recordings/pick", chosen)  # LeRobot v2.0 to v3.0, or RLDS
    first = episodes.episodes[0]
    print(first.instruction, first.state.shape, first.action.shape, first.videos)

    mixture = corpora.read_mixture("pyramid.toml")               # a MixtureSpec; in a notebook it draws itself
    print(mixture, mixture.survey().contents.hours)

A video source of one's own is a class: see `corpora.sources.SourceKind`. The rooms, from the ground up: `store` (what
giza leaves on disk), `video` (images and time), `clips` (the corpus on disk), `episodes` (robots' data), `sources`
(where video comes from), `agent` (where whoever acts is in the image), `simulation`, `mixture`, `ingestion`. Names are
imported when they are first used, so that `import corpora` is cheap.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

from typing import TYPE_CHECKING

from corpora.door import door

if TYPE_CHECKING:
    from corpora import sources
    from corpora.clips.corpus import Clip, Corpus
    from corpora.clips.survey import CorpusSurvey
    from corpora.episodes.episode import Episode, Episodes
    from corpora.episodes.opening import open_episodes
    from corpora.episodes.selection import EpisodeSelection
    from corpora.ingestion.pipeline import ingest
    from corpora.ingestion.settings import IngestSettings
    from corpora.mixture.mixture import MixtureSpec, read_mixture
    from corpora.mixture.spec import DatasetSpec, Sample

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "corpora.sources": "",
        "corpora.clips.corpus": "Clip Corpus",
        "corpora.clips.survey": "CorpusSurvey",
        "corpora.episodes.episode": "Episode EpisodeSelection Episodes",
        "corpora.episodes.opening": "open_episodes",
        "corpora.ingestion.pipeline": "ingest",
        "corpora.ingestion.settings": "IngestSettings",
        "corpora.mixture.mixture": "MixtureSpec read_mixture",
        "corpora.mixture.spec": "DatasetSpec Sample",
    },
)
