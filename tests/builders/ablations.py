"""A pyramid file for an ablation's `--extra`."""

from __future__ import annotations

from pathlib import Path

EXTRA = """
[[member]]
name = "kitchen"
tier = "human"
label = "latent"
embodiment = "latent"
corpus = "kitchen"
latents = "latents"
licence = "CC BY 4.0"

[[member]]
name = "street"
tier = "human"
label = "none"
embodiment = "latent"
corpus = "street"
licence = "CC BY 4.0"
"""


def extra_file(folder: Path) -> Path:
    """A pyramid file whose folders look finished."""
    for name in ("kitchen/manifest.parquet", "street/manifest.parquet", "latents/_extract.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "extra.toml").write_text(EXTRA)
    return folder / "extra.toml"
