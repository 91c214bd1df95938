"""A policy on disk and on the hub: safetensors and JSON, with a model card that holds what was measured. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from corpora.store.files import write_json, write_text, written_whole
from vla.models.config import PolicyConfig, from_dict, to_dict
from vla.policy import ChunkPolicy, RobotFacts

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
BACKBONE = "backbone"
FORMAT = 1
MEASURED = "## Measured"
"""Heading of the card's last part."""


def build_policy(config: PolicyConfig, backbone: Any = None) -> ChunkPolicy:
    """A policy with fresh weights (those of a backbone by name come from the hub)."""
    if config.head == "regression":
        from vla.models.behaviour_cloning import BehaviourCloning

        return BehaviourCloning(config)
    from vla.models.dual_system import DualSystemPolicy

    return DualSystemPolicy(config, backbone)


def save_policy(policy: ChunkPolicy, folder: Path) -> None:
    """Each file is written under a temporary name and renamed; the configuration comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    if policy.config.vlm.name:
        from vla.models.huggingface import HfBackbone

        backbone = getattr(policy, "backbone", None)
        if isinstance(backbone, HfBackbone):  # configuration and processor; the weights are in WEIGHTS
            backbone.save_pretrained(folder / BACKBONE, weights=False)
    with written_whole(folder / WEIGHTS) as temporary:
        save_model(policy, str(temporary), metadata={"format": "pt"})
    values = {
        "giza_policy": FORMAT,
        "policy": to_dict(policy.config),
        "slots": _slots(policy),
        "robots": {name: facts.to_json() for name, facts in policy.robots.items()},
        "measured": policy.measured,
    }
    write_text(folder / CARD, model_card(policy))
    write_json(folder / CONFIG, values)


def load_policy(name: str | Path, *, revision: str | None = None) -> ChunkPolicy:
    """From a folder, or from the hub where no such folder exists. Raises ValueError where neither has a policy, and where
    its files are damaged or of another version."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(str(name), revision)
    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"'{name}' is no policy: it lacks {CONFIG} or {WEIGHTS}. Make one with giza pretrain or giza ground"
        )
    try:
        values = json.loads(path.read_text("utf-8"))
        written, config, slots = values["giza_policy"], from_dict(values["policy"]), list(values["slots"])
        robots = {robot: RobotFacts.from_json(facts) for robot, facts in values["robots"].items()}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the configuration of a policy ({type(error).__name__}: {error})") from error
    if written != FORMAT:
        raise ValueError(f"{path}: a policy of format {written!r}; this version of giza reads {FORMAT}")
    backbone = None
    if config.vlm.name and (folder / BACKBONE).is_dir():
        from vla.models.huggingface import HfBackbone

        backbone = HfBackbone.from_pretrained(folder / BACKBONE, weights=False)
    policy = build_policy(config, backbone)
    _name_slots(policy, slots)
    try:
        missing, unexpected = load_model(policy, str(folder / WEIGHTS), strict=False)
    except (SafetensorError, RuntimeError) as error:  # cut short or no such file; other shapes
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{folder / WEIGHTS}: damaged, or not of this {CONFIG} ({reason}); copy it again") from error
    if missing or unexpected:
        raise ValueError(
            f"{folder / WEIGHTS}: weights do not fit {CONFIG}; missing {sorted(missing)[:3]}, unexpected "
            f"{sorted(unexpected)[:3]}"
        )
    policy.robots = robots
    policy.measured = dict(values.get("measured", {}))
    return policy.eval()


def record_measured(folder: Path, name: str, values: Any) -> None:
    """Adds what was measured of the policy in `folder` to its configuration and its model card, under `name`."""
    path = folder / CONFIG
    settings = json.loads(path.read_text("utf-8"))
    settings["measured"] = {**settings.get("measured", {}), name: values}
    card = (folder / CARD).read_text("utf-8") if (folder / CARD).is_file() else ""
    head = card.partition(MEASURED)[0] or "# A policy made by giza\n\n"
    write_text(folder / CARD, head + _measured_lines(settings["measured"]))
    write_json(path, settings)


def push_policy(policy: ChunkPolicy, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Uploads the saved folder; returns its address. Needs a network and a token of the hub."""
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(policy, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="giza policy"))


def model_card(policy: ChunkPolicy) -> str:
    """Markdown: what the policy is, the robots that it knows, and what was measured, as it came out."""
    config = policy.config
    total = sum(p.numel() for p in policy.parameters())
    lines = [
        "---",
        "library_name: giza",
        "pipeline_tag: robotics",
        "---",
        "",
        "# A policy made by giza",
        "",
        f"{total / 1e6:.1f} million parameters; head {config.head}; backbone {config.vlm.name or 'small, from scratch'}; "
        f"pictures of {config.image_size} px; chunks of {config.horizon} steps.",
        "",
        "| robot | slot | cameras | action dimensions | step (s) |",
        "|---|---|---|---|---|",
    ]
    for name, facts in policy.robots.items():
        cameras = ", ".join(facts.cameras)
        lines.append(f"| {name} | {facts.slot or name} | {cameras} | {facts.codec.action_dim} | {facts.step_s:.4f} |")
    return "\n".join(lines) + "\n\n" + _measured_lines(policy.measured)


def _measured_lines(measured: dict[str, Any]) -> str:
    said = f"```json\n{json.dumps(measured, indent=1)}\n```" if measured else "Nothing yet: run giza evaluate."
    return f"{MEASURED}\n\n{said}\n"


def _slots(policy: ChunkPolicy) -> list[str]:
    embodiments = getattr(policy, "embodiments", None)
    return list(embodiments.names if embodiments is not None else policy.slots)  # type: ignore[arg-type]


def _name_slots(policy: ChunkPolicy, names: list[str]) -> None:
    """As they were when the weights were saved: a slot is a place, and a later version may know other names."""
    embodiments = getattr(policy, "embodiments", None)
    if embodiments is None:
        policy.slots = names  # type: ignore[assignment]
        return
    if len(names) > embodiments.capacity:
        raise ValueError(f"{len(names)} slots: a policy has at most {embodiments.capacity}")
    embodiments.names = names


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS, f"{BACKBONE}/*"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"'{name}': no folder of this name, and the hub does not give it ({type(error).__name__}); check the path"
        ) from error
    return Path(found)
