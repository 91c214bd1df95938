"""What giza report said of latents, kept beside them, so that whoever uses them hears it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corpora.store.decode import decode
from corpora.store.files import read_json, write_json

JUDGED = "_judged.json"
DO_NOT_TRUST = "do not trust"
"""The one verdict that stops a training."""
NEVER = "never judged"


@dataclass(frozen=True)
class Judged:
    """The last verdict on a folder of latents."""

    levels: Mapping[str, str]
    """Body -> "trust", "trust with care", "cannot tell" or `DO_NOT_TRUST`."""
    date: str
    """2026-11-30."""
    model_hash: str
    """Of the latents that were judged; of others the verdict says nothing."""

    def save(self, folder: Path) -> None:
        """Beside the latents."""
        write_json(folder / JUDGED, vars(self) | {"levels": dict(self.levels)})

    @property
    def untrusted(self) -> bool:
        """Whether it is `DO_NOT_TRUST` of any body."""
        return DO_NOT_TRUST in self.levels.values()

    def __str__(self) -> str:
        return f"{', '.join(f'{body}: {level}' for body, level in self.levels.items())} ({self.date})"


def judged(folder: str | Path, model_hash: str = "") -> Judged | None:
    """The verdict on the latents in a folder, None where there is none, or one of another model's. Raises ValueError where its
    record is damaged."""
    path = Path(folder).expanduser() / JUDGED
    record = read_json(path)
    if record is None:
        return None
    found = decode(Judged, record, what=str(path))
    return found if model_hash in ("", found.model_hash) else None
