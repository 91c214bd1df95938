"""The sections of a report that are looked at: actions carried over, the code atlas, nearest clips."""

from __future__ import annotations

from html import escape
from typing import Any

from lapa.reporting.card import Pictures
from lapa.reporting.figures import change_picture, strip
from lapa.reporting.html import say, section
from lapa.reporting.verdict import figure

SHOWN = 78
"""Side of a frame in the strips."""


def transfer_section(card: dict[str, Any], pictures: Pictures) -> str:
    """Latents of one clip decoded on a frame of another, or why that is not shown."""
    found = card["transfer"]
    title = "Does an action carry over to another clip?"
    if "reason" in found:
        return section(title, say(f"Not shown: {found['reason']}."))
    text = (
        "The latent of one pair, decoded on a frame of another video. Read again from the prediction, it agrees with the latent put in "
        f"by a cosine of {figure(found['same_latent'])}; with a latent that was not put in, {figure(found['chance'])}."
    )
    across = found.get("across_embodiments")
    if across:
        text += f" Between embodiments: {figure(across['same_latent'])}, chance {figure(across['chance'])}."
    rows = []
    for one in pictures.transfers:
        change = change_picture(one.onto, one.continuous, gain=2)
        picture = strip(
            [list(one.taken_from), [one.onto, one.quantized, one.continuous, change]],
            side=SHOWN,
            alt=f"latent of {one.source} on {one.target}",
        )
        note = " (another embodiment)" if one.across else ""
        rows.append(
            f"<figure>{picture}<figcaption>{escape(one.source)} → {escape(one.target)}{note}</figcaption></figure>"
        )
    legend = (
        "Left: the pair that the latent is from. Right: another clip's frame, the prediction from the code, from the continuous latent, "
        "and what that changed, twice as strong."
    )
    return section(title, say(text), say(legend, "small"), f'<div class="grid">{"".join(rows)}</div>')


def atlas_section(pictures: Pictures) -> str:
    """Pairs of each code side by side."""
    atlas = pictures.atlas
    blocks = []
    for entry in atlas.entries:
        groups = [
            [*pictures.frames[row], change_picture(*pictures.frames[row])]
            for row in entry.rows
            if row in pictures.frames
        ]
        places = "; ".join(pictures.labels[row] for row in entry.rows)
        caption = (
            f"<b>{escape(entry.name)}</b> {100 * entry.share:.1f}% of pairs, {entry.groups} videos, {entry.embodiments} "
            f"embodiment{'s' if entry.embodiments != 1 else ''}, mean change {entry.motion:.1f} of 255"
        )
        picture = strip(groups, side=64, alt=places)
        blocks.append(
            f'<figure class="row"><figcaption title="{escape(places, quote=True)}">{caption}</figcaption>{picture}</figure>'
        )
    text = (
        f"Entries are {atlas.kind}, the most used first. Their pairs are drawn at random, from different videos where there are enough: "
        "first frame, second frame, difference. Pairs of one code should show one kind of motion, whoever makes it."
    )
    return section("Code atlas", say(text), *blocks)


def neighbours_section(pictures: Pictures) -> str:
    """The pairs whose latents lie nearest to a pair's, of other videos and embodiments; empty where there are none."""
    if not pictures.atlas.neighbours:
        return ""
    blocks = []
    for found in pictures.atlas.neighbours:
        groups = [list(pictures.frames[row]) for row in (found.query, *found.rows)]
        caption = f"{escape(pictures.labels[found.query])} → nearest in {escape(found.kind)}"
        blocks.append(
            f'<figure class="row"><figcaption>{caption}</figcaption>{strip(groups, side=72, alt=found.kind)}</figure>'
        )
    text = (
        "The first pair of each row is the query; then the pairs whose continuous latents lie nearest to it, one of each other video, and "
        "of each other embodiment. They should move alike, not look alike."
    )
    return section("Nearest clips by latent", say(text), *blocks)
