"""What a dataset of latents says of itself to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def facts_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the card's table; `told`: meta/giza.json."""
    return {
        "latent action model": f"`{told['model_hash']}` {told['made_by']}".strip(),
        "gap of a pair": f"{told['gap_s']:g} s",
        "action": f"{told['width']} dimensions ({told['vector']}), {told['codes']} codes a pair",
        "rows a second": told["fps"],
        "latents off their rows' times": f"at most {told['time_off_s']:.3f} s",
        "episodes, rows": f"{told['episodes']}, {told['rows']}",
        "clips, left out": f"{told['clips']}, {told['clips_left_out']}",
        "episodes without an instruction": told["without_text"],
    }


def notes_of(told: Mapping[str, Any]) -> list[str]:
    """Paragraphs."""
    notes = [
        "The action of a row is the latent action from its frame to the one `latent.gap_s` later: a vector that was learned from "
        "video alone, no robot's command. Where each episode is from, `meta/giza_episodes.jsonl` says; how it was made, "
        "`meta/giza.json`."
    ]
    if told["degenerate_dims"]:
        flagged = "; ".join(f"`{name}`: {', '.join(map(str, dims))}" for name, dims in told["degenerate_dims"].items())
        notes.append(f"Dimensions that hardly vary, and must not be divided by their spread: {flagged}.")
    verdicts = (told["report"] or {}).get("verdicts", {})
    for body, verdict in verdicts.items():
        reasons = " ".join(reason["text"] for reason in verdict["reasons"])
        notes.append(f"Report on the latents of {body}: **{verdict['title']}**. {reasons}")
    if not verdicts:
        notes.append("No report came with these latents: whether they are actions was not measured.")
    return notes
