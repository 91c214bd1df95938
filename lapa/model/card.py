"""What a trained latent action model says of itself to people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from corpora.store.card import write_card
from corpora.training_config import HIGHER
from lapa.model.config import LamConfig

USAGE = (
    "import giza",
    'lam = giza.LatentActionModel.from_pretrained("this folder")',
    'sample = lam.extract("video.mp4")  # or a folder of videos',
    "sample.t_s, sample.gap_s  # of each pair of frames: time of the first, seconds between them",
    "sample.latent, sample.codes  # float32 [pairs, D], int32 [pairs, C] or None",
)


def write_lam_card(folder: Path, config: LamConfig, summary: Mapping[str, Any], begun: str = "") -> None:
    """README.md of the model in the run folder `folder`; `summary`: what its run.json is going to say; `begun`: the published model
    whose weights it began with."""
    header = ModelCardData(
        library_name="giza",
        license="other" if begun else "apache-2.0",
        pipeline_tag="robotics",
        tags=["latent-action-model", "latent-actions", "video", "robotics"],
        base_model=begun or None,
    )
    shown = f"{config.pair.image_size} px" if config.pixels else f"features of {config.target}"
    facts = {
        "recipe": summary["recipe"],
        "parameters": f"{summary['parameters']:,}",
        "frames": f"{shown}, {' or '.join(f'{gap:g}' for gap in config.pair.gap_s)} s apart",
        "latent": f"{config.tokens} x {config.latent_dim} numbers; quantiser {config.quantiser.kind}",
        "training": f"{summary['steps']} steps, {summary['pairs_seen']:,} pairs of {summary['train_clips']} clips, seed {summary['seed']}",
        "corpus": summary["corpus"],
        "videos held out": len(summary["held_out_groups"]),
    }
    measured = {
        name.removeprefix("val/").removesuffix(HIGHER).replace("_", " ")
        + (" (higher is better)" if name.endswith(HIGHER) else ""): f"{value:.4g}"
        for name, value in summary["validation"].items()
    }
    table = "\n".join(
        ["| | held-out videos |", "|---|---|", *(f"| {name} | {value} |" for name, value in measured.items())]
    )
    limits = [
        "A latent is what the model makes of two frames, no robot's action. Whether its latents say how a body moves is for `giza "
        "report` to measure, on your own videos; the numbers above do not say it.",
        "It has seen the videos of its corpus alone, and gaps as above: elsewhere it may say nothing.",
        "Copy loss is what copying the first frame has: a target loss near it means that nothing was learned.",
        "The licence above is of the weights; the videos have their own.",
    ]
    if summary["collapsed"]:
        limits.insert(0, "**The codes have collapsed**: they carry almost nothing.")
    if begun:
        limits[-1] = f"It began with the weights of {begun}, whose licence holds for it; the videos have their own."
    write_card(
        folder,
        header,
        "A latent action model made by giza",
        about=["What happened between two frames of a video, as a small vector and as codes; learned without actions."],
        usage=USAGE,
        facts=facts,
        sections={"Measured": table if measured else "Nothing was held out."},
        limits=limits,
    )
