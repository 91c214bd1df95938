"""Folders of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


def fetched(name: str | Path, files: Sequence[str], **where: Any) -> Path:
    """Copies of these files (names, or patterns with *) of a repository. `where`: as `snapshot_download` has it. Raises ValueError
    where the hub does not give them."""
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files), **where))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"'{name}': no folder of this name, and the hub does not give it ({type(error).__name__}); check the path"
        ) from error
