"""A policy on disk and on the hub: safetensors and JSON, with a model card that holds what was measured. No pickle.

This file alone saves and loads. Which class a configuration is of, the registry `HEADS` says; `register` adds one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from corpora.mixture.embodiments import LATENT
from corpora.store.files import write_json, write_text, written_whole
from corpora.store.told import listed
from vla.embodiment import Embodiment
from vla.models.behaviour_cloning import BehaviourCloning
from vla.models.config import PolicyConfig, to_dict
from vla.models.dual_system import DualSystemPolicy
from vla.models.world_action import WorldActionPolicy
from vla.policy import HEAD_WEIGHTS, Policy
from vla.stored import ALIKE, BACKBONE, CONFIG, FORMAT, WEIGHTS, no_configuration, policy_folder, read_config
from vla.trained_on import DATA, read_records, verdicts_on_latents, write_records

CARD = "README.md"
MEASURED = "## Measured"
"""Heading of the card's last part."""

Head = Callable[[PolicyConfig, Path | None], Policy]
"""A configuration, and the folder of a saved backbone's settings where there is one, to a policy with fresh weights."""
HEADS: dict[str, Head] = {
    "flow": DualSystemPolicy.build,
    "regression": BehaviourCloning,
    "world_action": WorldActionPolicy,
}
"""By the name that `PolicyConfig.head` gives."""


def register(name: str, head: Head) -> None:
    """Adds a head. Raises ValueError where the name is taken."""
    if name in HEADS:
        raise ValueError(f"head '{name}': there is one of this name; choose another")
    HEADS[name] = head


def build_policy(config: PolicyConfig, backbone: Path | None = None) -> Policy:
    """A policy with fresh weights (those of a backbone by name come from the hub, or are those that a checkpoint's settings
    in the folder `backbone` describe, to be loaded). Raises ValueError for an unknown head."""
    if config.head not in HEADS:
        raise ValueError(
            f"head '{config.head}': there are {', '.join(HEADS)}; register others with vla.checkpoint.register"
        )
    return HEADS[config.head](config, backbone)


def format_of(head: str) -> int | None:
    """What a training that is resumed must have begun with; None where that does not matter."""
    return None if head in ALIKE else FORMAT


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Writes config.json, model.safetensors and README.md (the model card), as `load_policy` reads them."""
    policy.save_pretrained(Path(folder))


def load_policy(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    force_download: bool = False,
) -> Policy:
    """From a folder, or from the hub where no such folder exists. Raises ValueError where neither has a policy, and where
    its files are damaged or of another version."""
    folder = policy_folder(
        name,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        force_download=force_download,
    )
    values, config = read_config(folder, name, (CONFIG, WEIGHTS))
    try:
        slots = list(values["slots"])
        embodiments = {robot: Embodiment.from_json(facts) for robot, facts in values["robots"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise no_configuration(folder / CONFIG, error) from error
    policy = build_policy(config, folder / BACKBONE if (folder / BACKBONE).is_dir() else None)
    policy.name_embodiments(slots)
    try:
        missing, unexpected = load_model(policy, str(folder / WEIGHTS), strict=False)
    except (SafetensorError, RuntimeError) as error:  # cut short or no such file; other shapes
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{folder / WEIGHTS}: damaged, or not of this {CONFIG} ({reason}); copy it again") from error
    if missing or unexpected:
        raise ValueError(
            f"{folder / WEIGHTS}: weights do not fit {CONFIG}; missing {listed(sorted(missing), 3) or 'none'}, "
            f"unexpected {listed(sorted(unexpected), 3) or 'none'}"
        )
    policy.embodiments = embodiments
    policy.measured = dict(values.get("measured", {}))
    policy.trained_on = read_records(folder)
    of_episodes = {one.embodiment for one in policy.trained_on if one.kind == "episodes"}
    for robot, facts in embodiments.items():
        if robot in of_episodes and not facts.squared_by:  # earlier versions did not keep it
            policy.embodiments[robot] = replace(facts, squared_by="stretch")
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


def model_card(policy: Policy) -> str:
    """Markdown: what the policy is, the robots that it knows, and what was measured, as it came out."""
    config = policy.config
    named = config.vlm.name or config.vision.name
    begun = str(policy.measured.get(HEAD_WEIGHTS, ""))
    total = sum(p.numel() for p in policy.parameters())
    datasets = policy.measured.get("training", {}).get("members", [])
    data = ModelCardData(
        library_name="giza",
        license="other" if begun else "apache-2.0",
        pipeline_tag="robotics",
        tags=["robotics", "vision-language-action", *policy.embodiments],
        datasets=[dataset["name"] for dataset in datasets] or None,
        base_model=[base for base in (named, begun) if base] or None,
    )
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "",
        "# A policy made by giza",
        "",
        f"{total / 1e6:.1f} million parameters; head {config.head}; backbone {named or 'small, from scratch'}; "
        f"images of {config.image_size} px; chunks of {config.horizon} steps."
        + (f" System 1 began with the weights of {begun}, whose licence holds for it." if begun else ""),
        "",
        *_usage(policy),
        "",
        "| robot | cameras | action dimensions | step (s) |",
        "|---|---|---|---|",
    ]
    for name, known in policy.embodiments.items():
        width = known.action_space.encoded_action_dim
        lines.append(f"| {name} | {', '.join(known.cameras)} | {width} | {known.step_s:.4f} |")
    return "\n".join([*lines, "", *_limits(policy)]) + "\n\n" + _measured_lines(policy.measured)


def _usage(policy: Policy) -> list[str]:
    """Five lines of code, with the names of the robot that it learned last (latent actions are nobody's)."""
    robot = ([name for name in policy.embodiments if name != LATENT] or ["ROBOT"])[-1]
    cameras = policy.embodiments[robot].cameras if robot in policy.embodiments else ("CAMERA",)
    pictures = ", ".join(f'"{camera}": image' for camera in cameras)
    return [
        "```python",
        "import vla",
        'policy = vla.load("this folder or repository")',
        f'seen = vla.Observation({{{pictures}}}, state, "instruction")  # uint8 [H, W, 3], float [Ds]',
        f'chunk = policy.act(seen, "{robot}")',
        "chunk.actions, chunk.step_s  # [steps, Da] in the robot's own numbers, seconds between two",
        "```",
    ]


def _limits(policy: Policy) -> list[str]:
    """What the policy is not good for."""
    judged = verdicts_on_latents(policy.trained_on)
    names = dict.fromkeys(one.folder or one.name for one in policy.trained_on)
    data = [f"{name} (latents, {judged[name]})" if name in judged else name for name in names]
    return [
        "## Limits",
        "",
        "- It knows the robots of the table, with these cameras and this step; for another train it with `giza ground`.",
        f"- It was trained on {listed(data) or 'data that it does not name'}; what was held out, {DATA} says. Elsewhere "
        "it may do anything.",
        "- Actions are cut to the range of its training data. Nothing else keeps a robot from doing harm: stay at the stop.",
        "- The licence above is of the weights; the data and the backbone have their own.",
    ]


class _Store:
    """What `Policy.save_pretrained`, `.push_to_hub` and `.from_pretrained` call."""

    def save(self, policy: Policy, folder: Path) -> None:
        """Each file is written under a temporary name and renamed; the configuration comes last."""
        if policy.system2 is not None:
            policy.system2.save_settings(folder / BACKBONE)
        with written_whole(folder / WEIGHTS) as temporary:
            save_model(policy, str(temporary), metadata={"format": "pt"})
        values = {
            "giza_policy": FORMAT,
            "policy": to_dict(policy.config),
            "slots": policy.slots,
            "robots": {name: known.to_json() for name, known in policy.embodiments.items()},
            "measured": policy.measured,
        }
        write_text(folder / CARD, model_card(policy))
        write_records(folder, policy.trained_on)
        write_json(folder / CONFIG, values)

    def load(self, name: str | Path, **where: Any) -> Policy:
        return load_policy(name, **where)


Policy.store = _Store()


def _measured_lines(measured: dict[str, Any]) -> str:
    words = measured.get("evaluation", {}).get("verdict", {})
    told = "".join(f"- {part.replace('_', ' ')}: **{said}**\n" for part, said in words.items()) + (
        "\n" if words else ""
    )
    said = told + f"```json\n{json.dumps(measured, indent=1)}\n```" if measured else "Nothing yet: run giza evaluate."
    return f"{MEASURED}\n\n{said}\n"
