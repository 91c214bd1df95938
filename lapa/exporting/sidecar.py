"""What a dataset of latents says of itself: `meta/giza.json`, `meta/giza_episodes.jsonl`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corpora.clips.corpus import Corpus
from corpora.store.files import as_utf8, read_json, write_json, write_text
from lapa.exporting.dataset import Written
from lapa.exporting.plan import Plan
from lapa.exporting.settings import LatentRows
from lapa.foreign.exported import EPISODES, SIDECAR
from lapa.latents import Latents


def write_sidecar(
    out: Path,
    corpus: Corpus,
    latents: Latents,
    plan: Plan,
    rows: LatentRows,
    written: Written,
    report: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Writes both files of the dataset at `out` and returns what meta/giza.json holds. `report`: of `found_by`."""
    episodes, key = written.episodes, latents.key
    clips = {row.clip_id: row for row in corpus.clips}
    told: dict[str, Any] = {
        "kind": "latents",
        "model_hash": key.model_hash,
        "made_by": latents.summary.get("made_by", ""),
        "gap_s": key.gap_s,
        "stride_s": key.stride_s,
        "vector": rows.vector,
        "width": plan.width,
        "codes": plan.codes,
        "fps": plan.fps,
        "time_off_s": max(episode["time_off_s"] for episode in episodes),
        "episodes": len(episodes),
        "rows": sum(episode["rows"] for episode in episodes),
        "without_text": sum(not clips[episode["clip_id"]].text for episode in episodes),
        "corpus": corpus.identity,
        "squared_by": corpus.squared_by,
        "licences": dict(Counter(episode["licence"] for episode in episodes)),
        "clips": len({episode["clip_id"] for episode in episodes}),
        "clips_left_out": len(written.left),
        "left_out_reasons": dict(Counter(why.reason for why in written.left.values())),
        "left_out": [
            {"clip_id": clip, "source": clips[clip].source, "reason": why.reason, "detail": why.detail}
            for clip, why in written.left.items()
        ],
        "degenerate_dims": degenerate(out),
        "report": report,
    }
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in episodes)
    write_text(out / EPISODES, as_utf8("".join(lines)))
    write_json(out / SIDECAR, told)
    return told


def degenerate(root: Path) -> dict[str, list[int]]:
    """Feature -> its dimensions that hardly vary, as meta/info.json flags them."""
    features = (read_json(root / "meta" / "info.json") or {}).get("features", {})
    flags = {name: (feature.get("info") or {}).get("degenerate_dims", []) for name, feature in features.items()}
    return {name: dims for name, dims in flags.items() if dims}


def found_by(report: Path, latents: Latents, corpus: Corpus) -> dict[str, Any]:
    """The verdict of a report card in the folder `report`. Raises ValueError where there is none, or it is of other latents."""
    record = read_json(report.expanduser() / "report.json")
    if record is None:
        raise ValueError(f"report '{report}': it holds no report.json; make one with giza report, or leave it out")
    key = latents.key
    same = record.get("model_hash") == key.model_hash and record.get("corpus_hash") in ("", None, corpus.identity)
    if not same or abs(float(record.get("gap_s", 0)) - key.gap_s) > 0.2 * key.gap_s:
        raise ValueError(
            f"report '{report}' is of the model {record.get('model_hash')} at {record.get('gap_s')} s, the latents are of "
            f"{key.model_hash} at {key.gap_s:g} s: give the report of these latents and this corpus, or leave it out"
        )
    kept = ("verdicts", "pairs", "sampled_pairs", "clips", "warnings", "corpus_hash")
    return {name: record[name] for name in kept if name in record}
