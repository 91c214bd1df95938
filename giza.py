"""giza in Python: the three uses, and every job as a function.

    import giza

    lam = giza.LatentActionModel.from_pretrained("runs/lam")   # a run folder, a published checkpoint, s3://..., hf://...
    sample = lam.extract("video.mp4")                           # t_s, gap_s, latent, codes, camera ... of each pair
    latents = giza.load_latents("latents")                      # what `giza extract` wrote: rows, samples, their key
    dataset = giza.LatentDataset("corpus", "latents")           # PyTorch: frames, latent, codes

    corpus = giza.ingest("~/videos", out="corpus")              # 1. extract latent actions from a video corpus
    lam = giza.train_lam(corpus, out="runs/lam", recipe="small")
    giza.extract(lam, corpus, out="latents")
    card = giza.report(lam, corpus, "latents", out="report")
    policy = giza.pretrain("pyramid.toml", out="runs/base")     # 2. pretrain on web video
    giza.ablate(out="runs/ablation", recipe="demo")             # 3. ablate pyramid tiers

The rooms below are packages of their own: `corpora`, `lapa`, `flare`, `vla`, `jobs`. Nothing is imported before it is used.
"""

# ruff: noqa: F401 - the names are for type checkers; `door` imports them
from __future__ import annotations

import dataclasses
import importlib.metadata
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jobs
from corpora.door import door

if TYPE_CHECKING:
    from corpora import Corpus, open_episodes, read_mixture
    from jobs import *  # noqa: F403
    from lapa.latent_dataset import LatentDataset
    from lapa.latents import Latents, LatentSample
    from lapa.latents import Latents as load_latents
    from lapa.model.lam import LatentActionModel as Network
    from vla import Policy
    from vla import load as load_policy

_get, _dir, _names = door(
    __name__,
    {
        "corpora": "Corpus open_episodes read_mixture",
        "jobs": " ".join(jobs.__all__),
        "lapa.latents": "Latents LatentSample load_latents=Latents",
        "lapa.latent_dataset": "LatentDataset",
        "vla": "Policy load_policy=load",
    },
)
__all__ = [*_names, "LatentActionModel"]


def __getattr__(name: str) -> Any:
    return importlib.metadata.version("giza") if name == "__version__" else _get(name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


@dataclasses.dataclass(frozen=True)
class LatentActionModel:
    """A trained latent action model and where it lies."""

    name: str | Path
    """As it was given to `from_pretrained`."""
    network: Network
    """The PyTorch module, in evaluation mode."""

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> LatentActionModel:
        """Of a run folder of `giza train-lam`, a checkpoint of LAPA, DreamDojo or UniVLA, or a URL of one. Raises ValueError where
        it is neither."""
        from lapa import load

        return cls(name, load(name, device))

    def extract(self, videos: str | Path | list[str | Path], *, size: int = 128, **options: Any) -> LatentSample:
        """The latent actions of videos (files, folders, whatever `giza ingest` takes), which become clips of `size` pixels first:
        still, dark and repeated stretches are left out, and the log says so. For a corpus use `giza.ingest` and `giza.extract`,
        which keep what they make.

        options: gap_s, stride_s and the other fields of `giza extract`. Raises ValueError where nothing is left.
        """
        from corpora import IngestSettings, ingest
        from lapa.extraction.extract import extract

        several = [videos] if isinstance(videos, str | Path) else videos
        shown = max(self.network.config.pair.shape) if self.network.config.pixels else size
        with tempfile.TemporaryDirectory() as folder:
            settings = IngestSettings(size=max(size, shown + shown % 2))
            corpus = ingest(several, Path(folder) / "corpus", settings)
            corpus.expect_clips()
            latents = extract(self.name, corpus, Path(folder) / "latents", measure_s=0.0, **options)
            return latents.read(row.clip_id for row in corpus.clips)
