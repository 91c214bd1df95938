"""The ceiling of an ablation: people's clips with the actions that were truly done, which simulation alone knows. No label
made of video can be better, so this arm tells what is lost in the labels from what is lost between the two looks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from corpora.clips.corpus import Corpus
from corpora.episodes.columns import column_array
from corpora.mixture.pseudo_actions import SUMMARY, ClipLabels, chunks_at, write_labels
from corpora.simulation.episode import EXPERT_ACTION
from corpora.store.files import write_json
from corpora.store.provenance import provenance
from jobs.labelling.config import LabelConfig
from jobs.labelling.robot import robot_facts

_EPISODE = re.compile(r"episode_(\d+)")


def write_true_actions(config: LabelConfig, truth: Path) -> Path:
    """Labels as `giza label` writes them, of `config.corpus` into `config.out`, but true: the expert's own actions of
    `truth` (`giza simulate --truth`). Does nothing where they are there. Raises ValueError for clips whose episode or
    time `truth` does not hold."""
    out = config.out
    if (out / SUMMARY).is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    facts, corpus = robot_facts(config), Corpus(config.corpus)
    table = pq.read_table(truth, columns=["episode_index", "timestamp", EXPERT_ACTION])
    episode = column_array(table.column("episode_index"), np.int64)[:, 0]
    t_s = column_array(table.column("timestamp"), np.float64)[:, 0]
    action = column_array(table.column(EXPERT_ACTION), np.float32)
    times = corpus.times()
    clips = []
    for row in corpus.clips:
        found = _EPISODE.search(row.source)
        mine = episode == (int(found.group(1)) if found else -1)
        if not mine.any():
            raise ValueError(f"clip {row.clip_id} of '{row.source}': {truth} holds no such episode; simulate it anew")
        labels = chunks_at(times[row.clip_id], t_s[mine], action[mine], config.horizon, facts.step_s)
        if len(labels[0]):
            clips.append(ClipLabels(row.clip_id, *labels))
    write_labels(out / "part-000000.parquet", clips, {"truth": truth.name, "corpus": corpus.identity})
    summary = {
        "embodiment": config.embodiment,
        "horizon": config.horizon,
        "step_s": facts.step_s,
        "action_names": list(facts.action_space.action_names),
        "cameras": list(facts.cameras),
        "codec": facts.action_space.to_json(),
        "corpus_identity": corpus.identity,
    }
    write_json(out / SUMMARY, summary | {"provenance": provenance()})
    return out
