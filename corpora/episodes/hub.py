"""A LeRobot dataset's card, and the way of both to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from corpora.store.card import write_card
from corpora.store.files import read_json

USAGE = (
    "import giza",
    'episodes = giza.open_episodes("this folder").episodes',
    "for episode in episodes:",
    "    episode.instruction, episode.t_s  # text, seconds [T]",
    "    episode.action, episode.state, episode.videos  # [T, Da] and [T, Ds] or None, files by camera",
)


def write_dataset_card(
    root: Path,
    title: str,
    facts: Mapping[str, Any],
    licences: Mapping[str, int],
    notes: Sequence[str],
    *,
    job: str = "export",
    tags: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> None:
    """README.md of the dataset at `root`. `licences`: name -> episodes; `facts`: rows of a table; `notes`: paragraphs; `job`: which
    wrote it."""
    info = read_json(root / "meta" / "info.json") or {}
    known = [name for name in licences if name != "unknown"]
    one = known[0] if len(known) == len(licences) == 1 else None
    data = DatasetCardData(
        license=one or ("other" if known else "unknown"),
        task_categories=["robotics"],
        tags=["LeRobot", "giza", *([str(info["robot_type"])] if info.get("robot_type") else []), *tags],
        configs=[{"config_name": "default", "data_files": "data/*/*.parquet"}],
    )
    features = "\n".join(
        f"| `{name}` | {feature['dtype']} | {' x '.join(map(str, feature.get('shape') or []))} |"
        for name, feature in info.get("features", {}).items()
    )
    told = "".join(f"- {name}: {count} episodes\n" for name, count in licences.items())
    unknown = [] if known else ["Its licence is not known: whoever passes it on must say it."]
    write_card(
        root,
        data,
        title,
        about=[f"Written by giza {job}, LeRobot {info.get('codebase_version')}.", *notes],
        usage=USAGE,
        facts=facts,
        sections={
            "Features": f"| feature | type | shape |\n|---|---|---|\n{features}",
            "Licences": told.strip(),
        },
        limits=[*limits, *unknown],
    )


def check_repo(name: str) -> None:
    """Raises ValueError for what cannot be the name of a repository of a user or organisation."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push '{name}': {error}; give owner/name") from error
    if name.count("/") != 1:
        raise ValueError(f"push '{name}': it names no owner; give owner/name")


def push_dataset(root: Path, name: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Uploads the dataset at `root` and tags it with its version, as LeRobot looks for it; returns its address. What is there
    already is replaced. Raises ValueError where the hub refuses."""
    api = api or HfApi()
    version = str((read_json(root / "meta" / "info.json") or {})["codebase_version"])
    try:
        url = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=str(root),
            ignore_patterns=[".*", ".*/**", "*.tmp"],
            commit_message="giza export",
        )
        api.create_tag(name, tag=version, repo_type="dataset", exist_ok=True)
    except (HfHubHTTPError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        raise ValueError(
            f"push '{name}': the hub does not take it ({type(error).__name__}: {told}); the dataset is whole in '{root}': log in "
            "with hf auth login and run the same command again"
        ) from error
    return str(url)
