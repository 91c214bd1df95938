"""From figures to words: may these latents be trusted, and why.

The rules, in this order:
1. Collapsed codes or a collapsed latent: do not trust.
2. A latent that is a picture of the second frame, by itself or across a cut, beyond what can be known without a copy: do
   not trust.
3. The decoder does as well with random codes, or no better than a copied first frame: do not trust where no actions are
   known that say otherwise; a concern where they do.
4. Actions known: the probe decides.
   - Its interval reaches down to 0.05 or less, or shuffled latents do as well: do not trust.
   - The first frame, an untrained network, PCA or a frozen vision model that was named is better with all labels by an
     interval, and the latent beats it at no label budget: do not trust; what is better for nothing should be used instead.
   - Above each of these, every interval above zero, with an R2 of at least 0.5 and without concerns: trust.
   - Otherwise: trust with care, and the concerns are named.
5. Actions of this body unknown: cannot tell. What else was measured is said, and what would settle it.
Concerns: a model that is not at hand; test videos that the model was trained on; much of the camera's motion in the
latent; a latent that rebuilds much of an image across a cut; codes that are mostly idle; a random code that explains
nearly as much as a pair's own; latents of another model.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from lapa.reporting.card import Card, Level, Probe, Reason, Verdict
from lapa.reporting.probes.baselines import FEATURE_NUMBERS
from lapa.reporting.scores import Difference, figure, span

FORMAT = 6
"""Of the card: raised when the same latents would be measured or judged otherwise, in words or numbers."""
LEAST_R2 = 0.05
GOOD_R2 = 0.5
CAMERA_R2 = 0.5
CUT_EXPLAINED = 0.7
"""Share of a cut's difference that may be rebuilt before that is a concern."""
COPIED = 0.5
"""Share of what cannot be known without a copy of the second frame, beyond which there is one."""
DECODER_GAIN = 0.02
"""Share of the copy's error that the own code must take away beyond a random one."""
HEEDED = 1 / 3
"""Part of what the own code explains that a random one must not explain too, or it is a concern."""
RIVALS = {
    "first_frame": "the first frame alone",
    "untrained": "the same network untrained",
    "pca": "PCA of the difference",
    "vision": "a frozen vision model's features",
    "features": f"{FEATURE_NUMBERS} numbers of a frozen vision model",
}


REMEDIES = {
    "collapsed latent": "train longer, or on more varied video; a longer gap leaves more to tell",
    "collapsed codes": "use the continuous latent as the label, or train again with --model.quantiser.kind fsq, fewer codes or "
    "a longer gap",
    "idle codes": "the continuous latent is the better label; fewer codes lose nothing",
    "idle decoder": "train longer; where that does not help, with a longer gap, so that more changes between the frames",
    "camera": "keep --model.pair.camera-compensation on, and leave out video whose camera moves much",
    "copy": "train again with fewer --model.tokens or a smaller --model.latent-dim, or with --model.latent-noise 0.5",
    "cut": "a smaller --model.latent-dim or --model.latent-noise leaves less room for the picture",
    "probe": "train longer, ingest more video, or show it a few labels (--labels.feature)",
    "rival": "train longer or on more video; until the latent is above it, that baseline is the cheaper label",
    "vision": "train on such features (--model.target, recipe univla), or use that model as the policy's backbone (small_dino)",
    "unknown": "ingest a few dozen clips with known actions beside these",
    "no model": "give --lam, where the model is at hand",
}
"""What to do about a reason."""


def judge(card: Card, body: str) -> Verdict:
    """The verdict on the latents of one body: what was measured of all of them, and what is known of this body's
    motion."""
    collapse = _collapse(card)
    decoder = _decoder(card)
    copies = _copies(card)
    concerns = _concerns(card, body)
    if body not in card.probes:
        unknown = Reason(
            "concern",
            f"No known actions to compare with ({_unknown(card, body)}), so nothing here shows that the latents are "
            "actions; a few dozen labelled clips, ingested with the rest, would settle it.",
            REMEDIES["unknown"],
        )
        reasons = [*collapse, *copies, *decoder, unknown, *concerns]
        broken = any(reason.kind == "bad" for reason in reasons)
        return _sorted("do not trust" if broken else "cannot tell", reasons)
    found, sound, useless = _judge_probe(card.probes[body])
    # Where actions are known, they say more than the decoder does.
    decoder = [dataclasses.replace(reason, kind="concern") if reason.kind == "bad" else reason for reason in decoder]
    reasons = [*collapse, *copies, *found, *decoder, *concerns]
    if useless or any(reason.kind == "bad" for reason in (*collapse, *copies)):
        return _sorted("do not trust", reasons)
    if sound and not any(reason.kind == "concern" for reason in reasons):
        return _sorted("trust", reasons)
    return _sorted("trust with care", reasons)


def _unknown(card: Card, body: str) -> str:
    """Why a body's motion is not known."""
    if not card.probes:
        return card.probe_reason
    notes = [note.removeprefix(f"{body}: ") for note in card.probe_notes if note.startswith(f"{body}: ")]
    return notes[0] if notes else "no clip of this body has ground truth"


def _sorted(level: Level, reasons: list[Reason]) -> Verdict:
    order = {"bad": 0, "concern": 1, "good": 2}
    return Verdict(level, tuple(sorted(reasons, key=lambda reason: order[reason.kind])))


def _collapse(card: Card) -> list[Reason]:
    codes, latent = card.codes, card.latent
    reasons = []
    if latent.collapsed:
        reasons.append(
            Reason(
                "bad",
                "The continuous latent has collapsed: its variance lies in "
                f"{latent.effective_dims:.1f} of {latent.dim} dimensions.",
                REMEDIES["collapsed latent"],
            )
        )
    if codes is None:
        return reasons
    usage = f"{codes.used} of {codes.size} codes are used, with a perplexity of {codes.perplexity:.1f}"
    if len(codes.positions) > 1:
        rows = codes.combinations.perplexity
        usage += f", at the worst of {len(codes.positions)} positions, and whole rows have one of {rows:.1f}"
    if codes.collapsed:
        reasons.append(Reason("bad", f"The codes have collapsed: {usage}.", REMEDIES["collapsed codes"]))
    elif codes.thin:
        reasons.append(Reason("concern", f"Much of the codebook is idle: {usage}.", REMEDIES["idle codes"]))
    else:
        reasons.append(Reason("good", f"The codebook is alive: {usage}."))
    return reasons


def _decoder(card: Card) -> list[Reason]:
    found = card.reconstruction
    if found is None:
        text = f"{card.no_decoder}: reconstruction, cuts, transfer and the untrained network were not measured."
        return [Reason("concern", text, REMEDIES["no model"])]
    own, random = found.explained, found.random_code_explained
    if found.psnr_db is not None:
        figures = (
            f"{found.psnr_db:.1f} dB on {found.on}, {found.copy_psnr_db:.1f} by copying the first frame, "
            f"{found.random_code_psnr_db:.1f} with a random code"
        )
    else:
        figures = f"{100 * own:.0f}% of the change explained on {found.on}, {100 * random:.0f}% with a random code"
    if own < DECODER_GAIN:
        text = f"The code predicts the second frame no better than a copy of the first ({figures})."
        return [Reason("bad", text, REMEDIES["idle decoder"])]
    if own - random < DECODER_GAIN:
        return [Reason("bad", f"The decoder does not heed the code ({figures}).", REMEDIES["idle decoder"])]
    if own - random < HEEDED * own:
        text = f"A random code predicts the second frame nearly as well as a pair's own ({figures})."
        return [Reason("concern", text, REMEDIES["idle decoder"])]
    return [Reason("good", f"The code predicts the second frame ({figures}).")]


def _concerns(card: Card, body: str) -> list[Reason]:
    own = card.probes[body].warnings if body in card.probes else []
    reasons = [Reason("concern", text) for text in (*card.warnings, *own)]
    r2 = card.camera.r2_mean
    if r2 is not None:
        found = f"R2 {figure(r2)} from the latent to the measured motion of the camera"
        if r2 > CAMERA_R2:
            text = f"The latent carries the camera's movement ({found})."
            reasons.append(Reason("concern", text, REMEDIES["camera"]))
        else:
            reasons.append(Reason("good", f"Little of the camera's movement is in the latent ({found})."))
    return reasons


def _copies(card: Card) -> list[Reason]:
    """Does the latent, or its code, show the second frame rather than what happened?"""
    reasons = []
    if (look := card.appearance) is not None:
        found = (
            f"R2 {figure(look.r2)} {span(look.ci95)} from the latent alone to how that looks, {figure(look.difference_r2)} "
            "from PCA of the difference, which knows only what changed"
        )
        if look.beyond_difference > COPIED:
            what = "The latent copies the second frame"
            if look.first_r2 > look.r2:
                what = "The latent copies the scene, the second frame as well as the first"
            reasons.append(Reason("bad", f"{what}: {found}.", REMEDIES["copy"]))
        else:
            reasons.append(Reason("good", f"The latent is no picture of the second frame ({found})."))
    if (cuts := card.cuts) is None:
        return reasons
    unknowing = max(cuts.guess_explained, cuts.pca_explained, 0.0)
    known = max(cuts.explained, cuts.continuous_explained)
    figures = (
        f"{100 * max(0.0, cuts.continuous_explained):.0f}% of the difference from the continuous latent, "
        f"{100 * max(0.0, cuts.explained):.0f}% from the code, where a guess that has not seen it gives {100 * unknowing:.0f}%"
    )
    if known > unknowing + COPIED * (1 - unknowing):
        text = f"Across a cut, where there is no action, the decoder still rebuilds the second frame: {figures}."
        reasons.append(Reason("bad", text, REMEDIES["copy"]))
    elif known > CUT_EXPLAINED:
        text = f"Across a cut, where there is no action, much of the second frame is rebuilt: {figures}."
        reasons.append(Reason("concern", text, REMEDIES["cut"]))
    else:
        reasons.append(Reason("good", f"Across a cut, where there is no action, the decoder is lost: {figures}."))
    return reasons


def _judge_probe(probe: Probe) -> tuple[list[Reason], bool, bool]:
    """(reasons, above all rivals and good, worth nothing)."""
    latent = probe.scores["latent"]
    found = f"R2 {figure(latent.r2_mean)} {span(latent.ci95)}"
    if latent.ci95[0] <= LEAST_R2 or probe.difference["shuffled"].ci95[0] <= 0:
        text = f"A linear probe finds no dependable relation between latents and {probe.target} ({found})."
        return [Reason("bad", text, REMEDIES["probe"])], False, True
    good = latent.r2_mean >= GOOD_R2
    text = f"A linear probe of held-out episodes reads {probe.target} over {probe.gap_s:.2f} s with {found}"
    reasons = [Reason("good", f"{text}.") if good else Reason("concern", f"{text}; that is weak.", REMEDIES["probe"])]
    sound, useless = good, False
    for name, title in RIVALS.items():
        if name not in probe.difference:
            continue
        difference = probe.difference[name]
        low, high = difference.ci95
        beaten_at = {str(b.labels): b.difference[name] for b in probe.budgets if name in b.difference}
        beaten_at = {labels: found for labels, found in beaten_at.items() if found.ci95[0] > 0}
        figures = _above(difference)
        if low > 0:
            reasons.append(Reason("good", f"The latent is above {title} ({figures})."))
            continue
        sound, remedy = False, REMEDIES["vision" if name in ("vision", "features") else "rival"]
        few = ", ".join(f"{labels} labelled pairs ({_above(found)})" for labels, found in beaten_at.items())
        told = f"{title} with all labels ({figures}), but above it with {few}" if few else f"{title} ({figures})"
        if high < 0:
            useless |= not beaten_at
            kind: Literal["concern", "bad"] = "concern" if beaten_at else "bad"
            reasons.append(Reason(kind, f"The latent is below {told}.", remedy))
        else:
            reasons.append(Reason("concern", f"The latent is not clearly above {told}.", remedy))
    return reasons, sound, useless


def _above(difference: Difference) -> str:
    return f"{figure(difference.mean, '+')} {span(difference.ci95, '+')} R2"
