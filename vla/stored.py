"""A policy as it lies in a folder or on the hub, read without its weights and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora.mixture.embodiments import LATENT
from corpora.store.files import digest_file
from corpora.store.remote import at_hand
from vla.models.config import PolicyConfig, from_dict
from vla.trained_on import DATA

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BACKBONE = "backbone"
FORMAT = 2
"""Raised when the same weights would compute something else. In 1 the DiT read the flow time otherwise."""
ALIKE = frozenset({"regression"})
"""Heads that compute the same in all formats."""


def policy_config(name: str | Path) -> PolicyConfig:
    """Sizes and parts of the policy that `load_policy` loads, from its config.json alone. Raises ValueError as that."""
    return read_config(policy_folder(name, [CONFIG]), name, (CONFIG,))[1]


def known_robots(name: str | Path) -> tuple[str, ...]:
    """The robots that the policy that `load_policy` loads was trained on (latent actions are nobody's), from its config.json
    alone. Raises ValueError as that."""
    values, _ = read_config(policy_folder(name, [CONFIG]), name, (CONFIG,))
    return tuple(robot for robot in values.get("robots", {}) if robot != LATENT)


def policy_fingerprint(name: str | Path) -> str:
    """32 hex digits of all that decides what the policy that `load_policy` loads does, wherever it lies: weights to the last
    byte, sizes, robots with their statistics and places, its backbone's settings. What was measured of it is no part."""
    folder = policy_folder(name)
    values, _ = read_config(folder, name, (CONFIG, WEIGHTS))
    values.pop("measured", None)
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16)
    settings = sorted(path for path in (folder / BACKBONE).rglob("*") if path.is_file())
    for path in (*settings, folder / WEIGHTS):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}".encode())
        digest_file(digest, path)
    return digest.hexdigest()


def read_config(folder: Path, name: str | Path, wanted: tuple[str, ...]) -> tuple[dict[str, Any], PolicyConfig]:
    """What config.json of a policy holds, which has these files. Raises ValueError where it is none of this version."""
    if not all((folder / file).is_file() for file in wanted):
        raise ValueError(
            f"'{name}' is no policy: it lacks {' or '.join(wanted)}. Make one with giza pretrain or giza ground"
        )
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
        written, config = values["giza_policy"], from_dict(values["policy"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise no_configuration(path, error) from error
    if written not in (range(1, FORMAT + 1) if config.head in ALIKE else (FORMAT,)):
        raise ValueError(
            f"{path}: a policy of format {written!r}; this version of giza reads {FORMAT}: train it again with giza pretrain or "
            "giza ground, or use it with the version that made it"
        )
    return values, config


def no_configuration(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not the configuration of a policy ({type(error).__name__}: {error})")


def policy_folder(
    name: str | Path, files: Sequence[str] = (CONFIG, WEIGHTS, DATA, f"{BACKBONE}/*"), **where: Any
) -> Path:
    """Where the policy lies; what is no folder is fetched from the hub. Raises ValueError where that does not give it."""
    folder = at_hand(name).expanduser()
    if folder.is_dir():
        return folder
    from corpora.store.hub import fetched

    return fetched(name, files, **where)
