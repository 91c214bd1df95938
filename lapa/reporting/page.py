"""The report as one self-contained page: verdict first, then the figures behind it, then the pictures.

Nothing is loaded from elsewhere; charts are SVG, pictures PNG, and it reads in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from lapa.reporting.card import Pictures
from lapa.reporting.figures import bar, change_picture, label_curves, strip, usage_bars
from lapa.reporting.gallery import SHOWN, atlas_section, neighbours_section, transfer_section
from lapa.reporting.html import range_of, say, section, table
from lapa.reporting.style import STYLE
from lapa.reporting.verdict import figure

TITLES = {
    "latent": "latent",
    "quantized": "its code",
    "first_frame": "first frame alone",
    "untrained": "untrained network",
    "pca": "PCA of the difference",
    "shuffled": "shuffled latents",
}
EXPLAINED = {
    "latent": "the continuous latent, before quantisation",
    "quantized": "what is left of it in the codes",
    "first_frame": "principal components of the first picture: what the scene alone tells",
    "untrained": "the same network at random initialisations: what training added",
    "pca": "principal components of the difference image: what no network is needed for",
    "shuffled": "latents of other pairs: what chance gives",
}
MARKS = {"good": ("✓", "good"), "concern": ("!", "concern"), "bad": ("✗", "bad")}


def render(card: dict[str, Any], pictures: Pictures) -> str:
    """The page, as text."""
    sections = [
        _verdict(card),
        _probe(card),
        _codes(card),
        _reconstruction(card, pictures),
        _camera(card),
        _cuts(card, pictures),
        transfer_section(card, pictures),
        atlas_section(pictures),
        neighbours_section(pictures),
        _method(card),
    ]
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>giza report: {escape(card['verdict_detail']['title'])}</title><style>{STYLE}</style></head>"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _verdict(card: dict[str, Any]) -> str:
    detail = card["verdict_detail"]
    items = []
    for reason in detail["reasons"]:
        mark, kind = MARKS[reason["kind"]]
        items.append(f'<li class="{kind}"><span class="mark">{mark}</span>{escape(reason["text"])}</li>')
    bodies = ", ".join(card["embodiments"])
    facts = (
        f"{card['pairs']:,} pairs, {card['gap_s']:.2f} s apart, {card['sampled_pairs']:,} of them looked at: {card['clips']} "
        f"clips of {card['groups']} videos ({bodies}). Model {card['model_hash'] or 'without a hash'}."
    )
    return (
        f'<header class="v-{detail["level"].replace(" ", "-")}"><p class="kicker">May I trust these latent actions?</p>'
        f"<h1>{escape(detail['title'])}</h1><ul>{''.join(items)}</ul></header>{say(facts, 'facts')}"
    )


def _probe(card: dict[str, Any]) -> str:
    probe = card["probe"]
    title = "Do the latents tell the motion?"
    if probe is None:
        return section(title, say(f"Not measured: {card['probe_reason']}."))
    parts = [_probe_of(probe)]
    others = [found for name, found in card["probes"].items() if name != probe["embodiment"]]
    parts += [f"<h3>{escape(found['embodiment'])}</h3>" + _probe_of(found) for found in others]
    return section(title, *parts)


def _probe_of(probe: dict[str, Any]) -> str:
    held = {
        "held out of training": "episodes that neither the model nor the probe was fitted on",
        "named": "the named test episodes, which the probe was not fitted on",
        "k-fold": "each episode in turn, which the probe was not fitted on",
    }[probe["holdout"]]
    intro = (
        f"A linear (ridge) read-out is fitted from {probe['dimension']} numbers to {probe['target']} over {probe['gap_s']:.2f} s, "
        f"dimensions {', '.join(map(str, probe['dims']))} of {probe['embodiment']}, and tested on {held} "
        f"({len(probe['test_groups'])} episodes). R2 is 1 for a perfect reading and 0 for guessing the mean; the whisker is the 95% "
        "interval over test episodes. Each row has as many dimensions as the latent."
    )
    names = [name for name in TITLES if name in probe]
    low = min(-0.05, *(min(probe[name]["r2_mean"], 0.0) for name in names))
    low = max(low, -0.5)
    rows = []
    for name in names:
        cell = probe[name]
        difference = probe["difference"].get(name)
        rows.append(
            [
                f'<b>{TITLES[name]}</b><br><span class="small">{EXPLAINED[name]}</span>',
                bar(cell["r2_mean"], cell["ci95"], low, 1.0, strong=name == "latent"),
                f'<span class="figure">{figure(cell["r2_mean"])}</span> {range_of(cell["ci95"])}',
                ""
                if difference is None
                else f'<span class="figure">{figure(difference["mean"], "+")}</span> {range_of(difference["ci95"], "+")}',
            ]
        )
    parts = [say(intro), table(["", "", "R2, all labels", "latent minus this"], rows, "probe")]
    parts.append(_budgets(probe, names))
    head = ["R2 of dimension", *(str(dim) for dim in probe["dims"])]
    per_dim = [[TITLES[name], *(f"{figure(value)}" for value in probe[name]["r2"])] for name in names]
    parts.append(f"<details><summary>Each dimension</summary>{table(head, per_dim, 'figures')}</details>")
    agreement = probe.get("neighbour_agreement")
    if agreement is not None:
        parts.append(
            say(
                f"Without any fit: the nearest latent of another episode moves {100 * agreement:.0f}% nearer to a pair's motion than "
                "a random pair does (100%: the same motion; 0%: chance)."
            )
        )
    parts += [say(note, "small") for note in probe["notes"]]
    return "\n".join(parts)


def _budgets(probe: dict[str, Any], names: Sequence[str]) -> str:
    if not probe["budgets"]:
        return say("There are too few labelled pairs for smaller label budgets.", "small")
    steps = [*probe["budgets"].values(), probe | {"labels": probe["train_pairs"]}]
    shown = [name for name in names if name != "shuffled"]
    curves = {name: [(step["labels"], step[name]["r2_mean"], step[name]["ci95"]) for step in steps] for name in shown}
    head = ["labelled pairs", "latent", "minus first frame", "minus untrained", "minus PCA"]
    rows = []
    for step in steps:
        cells = [
            f"{step['labels']:,}",
            f'<span class="figure">{figure(step["latent"]["r2_mean"])}</span> {range_of(step["latent"]["ci95"])}',
        ]
        for name in ("first_frame", "untrained", "pca"):
            found = step["difference"][name]
            kind = "good" if found["ci95"][0] > 0 else "bad" if found["ci95"][1] < 0 else "even"
            cells.append(
                f'<span class="figure {kind}">{figure(found["mean"], "+")}</span> {range_of(found["ci95"], "+")}'
            )
        rows.append(cells)
    return (
        "<h3>How many labels does it take?</h3>"
        + say(
            "The same read-out fitted on a few labelled pairs, averaged over random choices of them: a good latent needs few."
        )
        + label_curves(curves, TITLES)
        + table(head, rows, "figures")
    )


def _codes(card: dict[str, Any]) -> str:
    codes, latent = card["codes"], card["latent"]
    share = latent["between_video_share"]
    rank = (
        f"The continuous latent spreads over {latent['effective_dims']:.1f} of {latent['dim']} dimensions (participation ratio)."
        + (
            ""
            if share is None
            else f" {100 * share:.0f}% of its variance tells which video a pair is from, not what happens in it."
        )
    )
    title = "Are the codes alive?"
    if codes is None:
        return section(title, say(f"No codes: {card['codes_reason']}."), say(rank))
    combinations = codes["combinations"]
    positions = codes["positions"]
    text = (
        f"{codes['used']} of {codes['size']} codes occur over all {codes['pairs']:,} pairs. Their perplexity, exp(entropy) over the whole "
        f"data set, is {codes['perplexity']:.1f}: as many codes as would be this varied if all were used alike. A pair has "
        f"{len(positions)} codes, which form {combinations['distinct']:,} different sequences (perplexity "
        f"{combinations['perplexity']:.0f})."
    )
    total = [sum(column) for column in zip(*(position["counts"] for position in positions), strict=True)]
    rows = [[str(k), str(p["used"]), f"{p['perplexity']:.1f}"] for k, p in enumerate(positions)]
    return section(
        title,
        say(text),
        usage_bars(total),
        f"<details><summary>Each position</summary>{table(['position', 'codes used', 'perplexity'], rows, 'figures')}</details>"
        if len(positions) > 1
        else "",
        say(rank),
    )


def _reconstruction(card: dict[str, Any], pictures: Pictures) -> str:
    found = card["reconstruction"]
    intro = (
        f"The decoder predicts the second frame from the first and the code. Measured on {found['pairs']} pairs of {found['groups']} "
        f"{found['on']}. A sharp picture is no proof of an action: a code that leaks the second frame scores best."
    )
    lines = [
        ("its code", "psnr_db", "explained"),
        ("continuous latent", "continuous_psnr_db", "continuous_explained"),
        ("copy of the first frame", "copy_psnr_db", None),
        ("code of another video", "shuffled_code_psnr_db", "shuffled_code_explained"),
        ("random code", "random_code_psnr_db", "random_code_explained"),
    ]
    rows = []
    for title, decibels, explained in lines:
        share = 0.0 if explained is None else found[explained]
        value = found[decibels]
        rows.append(
            [
                title,
                "" if value is None else f'<span class="figure">{value:.2f} dB</span>',
                bar(share, None, -0.5, 1.0, strong=explained == "explained"),
                f"{100 * share:.0f}%",
            ]
        )
    rows.append(
        [
            "PCA of the difference, rebuilt (linear)",
            "",
            bar(found["pca_explained"], None, -0.5, 1.0),
            f"{100 * found['pca_explained']:.0f}%",
        ]
    )
    parts = [say(intro), table(["decoded from", "PSNR", "share of the change explained", ""], rows, "figures")]
    if found["unit"] != "pixels":
        parts.append(say(f"The model predicts {found['unit']}, so there is neither a PSNR nor a picture."))
    elif pictures.reconstructions:
        strips = [
            strip(
                [[*columns[:2], change_picture(columns[0], columns[1])], columns[2:]], side=SHOWN, alt="reconstruction"
            )
            for columns in pictures.reconstructions
        ]
        legend = (
            "Left: first frame, second frame, their difference. Right: the second frame as predicted from the code, from the "
            "continuous latent, from a random code."
        )
        parts.append(say(legend, "small"))
        parts.append(f'<div class="grid">{"".join(strips)}</div>')
    return section("Does the decoder follow the code?", *parts)


def _camera(card: dict[str, Any]) -> str:
    camera = card["camera"]
    parts = []
    for found, what in ((camera, "measured by tracking"), (camera.get("truth"), "known from the recording")):
        if found is None:
            continue
        if found["r2_mean"] is None:
            parts.append(say(f"Camera motion {what}: not probed, {found['reason']}."))
            continue
        names = {"latent": found, **found["baselines"]}
        rows = [
            [
                TITLES[name],
                bar(cell["r2_mean"], cell["ci95"], -0.1, 1.0, strong=name == "latent"),
                f'<span class="figure">{figure(cell["r2_mean"])}</span> {range_of(cell["ci95"])}',
            ]
            for name, cell in names.items()
        ]
        each = ", ".join(f"{name} {figure(value)}" for name, value in found["r2"].items())
        parts.append(
            say(
                f"R2 from the latent to the camera's motion over the gap, {what}, on {found['pairs']:,} pairs of {found['groups']} videos, "
                f"each video held out in turn ({each}). Low is good: what a code spends on the head's movement is lost to the hands."
            )
        )
        parts.append(table(["", "", "R2"], rows, "probe"))
    return section("How much of it is the camera?", *parts)


def _cuts(card: dict[str, Any], pictures: Pictures) -> str:
    cuts = card["cuts"]
    title = "What does it do across a cut?"
    if cuts is None:
        return section(title, say("Not measured: no two clips differ enough to stand for a cut."))
    text = (
        f"Last frame of one clip, first of another ({cuts['pairs']} pairs, {cuts['kind']}). No action leads from one to the other, so a "
        f"latent that is an action cannot rebuild the second. Share of the difference that the code rebuilds: "
        f"{100 * cuts['explained']:.0f}% across cuts, {100 * cuts['real_explained']:.0f}% on real pairs; PCA of the same dimension "
        f"rebuilds {100 * cuts['pca_explained']:.0f}% across cuts, a random code {100 * cuts['random_code_explained']:.0f}%."
    )
    parts = [say(text)]
    if pictures.cuts:
        parts.append(say("Each: last frame before, first frame after, and the prediction from the code.", "small"))
        parts.append(
            '<div class="grid">'
            + "".join(strip([columns], side=SHOWN, alt="across a cut") for columns in pictures.cuts)
            + "</div>"
        )
    return section(title, *parts)


def _method(card: dict[str, Any]) -> str:
    notes = [*card["probe_notes"]]
    text = (
        "Videos (episodes) are held out whole, never frames of them. The ridge penalty and the scaling (one for all "
        "dimensions, one for each, or half-whitened) are chosen by cross-validation over the training episodes, for the latent and the "
        f"baselines alike. Intervals resample test episodes {card['settings']['bootstrap']:,} times; those of differences use the same "
        "resamples for both. All figures are in report.json beside this page."
    )
    return section("How this was measured", say(text), *(say(note, "small") for note in notes))
