"""Action heads that NVIDIA published (GR00T N1.5, N1.6 and N1.7), read as System 1 of a policy of the same layout.

    policy = vla.build(N1_5)
    vla.load_head(policy, "GR00T-N1.5-3B")     # hf download nvidia/GR00T-N1.5-3B --local-dir GR00T-N1.5-3B

Everything but the backbone comes from the folder: the DiT, the embodiments' layers, positions, future tokens and what stands
between vision-language tokens and the DiT. Their own backbone (Eagle; of N1.7 Cosmos-Reason2, a Qwen3-VL) is not read, so a
head meets tokens of another model.

Of the 32 embodiments in the weights NVIDIA names some (`Published.rows`). A name of the policy that is among these begins with
that embodiment's weights, and names that the policy lacks are added; every other name, and every free place, begins with those
of new_embodiment. No other row is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corpora.store.files import digest_file, read_json
from corpora.store.told import listed
from vla.models.config import PolicyConfig
from vla.policy import HEAD_WEIGHTS, Policy

PREFIX = "action_head."
CONFIG, INDEX, WEIGHTS, IDS = "config.json", "model.safetensors.index.json", "model.safetensors", "embodiment_id.json"
NEW = "new_embodiment"
HEAD_DIM = 64
"""Of an attention over vision-language tokens, here and in what was published."""
NAMES = (
    (r"^action_position$", "position_embedding.weight"),
    (r"^future$", "future_tokens.weight"),
    (r"^no_state$", "mask_token"),
    (r"^dit\.time\.0\.", "model.timestep_encoder.timestep_embedder.linear_1."),
    (r"^dit\.time\.2\.", "model.timestep_encoder.timestep_embedder.linear_2."),
    (r"^dit\.out_condition\.", "model.proj_out_1."),
    (r"^dit\.out\.", "model.proj_out_2."),
    (r"^dit\.blocks\.", "model.transformer_blocks."),
    (r"^projector\.norm\.", "vlln."),
    (r"^projector\.attention\.blocks\.", "vl_self_attention.transformer_blocks."),
    (r"(\.\d+)\.norm\.condition\.", r"\1.norm1.linear."),
    (r"(\.\d+)\.norm\.", r"\1.norm1."),
    (r"\.attention\.([qkv])\.", r".attn1.to_\1."),
    (r"\.attention\.out\.", ".attn1.to_out.0."),
    (r"\.mlp_norm\.", ".norm3."),
    (r"\.mlp\.0\.", ".ff.net.0.proj."),
    (r"\.mlp\.3\.", ".ff.net.2."),
    (r"^embodiment_layers\.action\.layer(\d)\.weight", r"action_encoder.W\1.W"),
    (r"^embodiment_layers\.action\.layer(\d)\.bias", r"action_encoder.W\1.b"),
    (r"^embodiment_layers\.state\.(layer\d)\.weight", r"state_encoder.\1.W"),
    (r"^embodiment_layers\.state\.(layer\d)\.bias", r"state_encoder.\1.b"),
    (r"^embodiment_layers\.decoder\.(layer\d)\.weight", r"action_decoder.\1.W"),
    (r"^embodiment_layers\.decoder\.(layer\d)\.bias", r"action_decoder.\1.b"),
)
"""From names here to those in NVIDIA's files, without `PREFIX`: each rule in turn, on what those before it left."""


@dataclass(frozen=True)
class Published:
    """One generation of heads."""

    name: str
    hub: str
    """Where NVIDIA published it, under a licence of its own."""
    recipe: str
    """Whose policy has its layout."""
    rows: Mapping[str, int]
    """Embodiment -> its place in the weights, in NVIDIA's code."""


PUBLISHED = {
    "gr00t_n1_5": Published(
        "GR00T N1.5", "nvidia/GR00T-N1.5-3B", "n1_5", {NEW: 31, "oxe_droid": 17, "agibot_genie1": 26, "gr1": 24}
    ),
    "Gr00tN1d6": Published(
        "GR00T N1.6",
        "nvidia/GR00T-N1.6-3B",
        "n1_6",
        {
            NEW: 10,
            "robocasa_panda_omron": 13,
            "gr1": 20,
            "behavior_r1_pro": 24,
            "unitree_g1": 8,
            "libero_panda": 2,
            "oxe_google": 0,
            "oxe_widowx": 1,
            "oxe_droid": 16,
        },
    ),
    "Gr00tN1d7": Published(
        "GR00T N1.7",
        "nvidia/GR00T-N1.7-3B",
        "n1_7",
        {
            NEW: 10,
            "oxe_droid_relative_eef_relative_joint": 24,
            "xdof_relative_eef_relative_joint": 27,
            "real_g1_relative_eef_relative_joints": 25,
            "real_r1_pro_sharpa_relative_eef": 26,
            "unitree_g1_full_body_with_waist_height_nav_cmd": 25,
            "unitree_g1_sonic": 11,
            "simpler_env_google": 0,
            "simpler_env_widowx": 1,
            "libero_sim": 2,
        },
    ),
}
"""By the model_type of config.json."""


def published_name(name: str) -> str:
    """What a weight of a policy is called in NVIDIA's files."""
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    return PREFIX + name


@torch.no_grad()
def load_head(policy: Policy, folder: str | Path) -> dict[str, int]:
    """Fills all of `policy` but its backbone from a folder as NVIDIA publishes it (config.json, safetensors), before it is
    trained. Its model card then names the model, and leaves the licence to it. Returns which row of the weights each of the
    policy's embodiments has now.

    Raises ValueError, and changes no weight, where the folder or the policy is of another layout, and where weights are
    missing, left over or of other shapes.
    """
    folder = Path(folder).expanduser()
    what, settings = _settings(folder)
    if not policy.tunable or not policy.config.vlm.name:
        raise ValueError(
            f"'{folder}' is the head of {what.name}: this policy (head '{policy.config.head}') has none of its layout; "
            f"choose --recipe {what.recipe}"
        )
    _check_sizes(what, settings, policy)
    rows = _rows(folder, what, policy)
    by_theirs = {
        published_name(name): value
        for name, value in policy.state_dict().items()
        if value.numel() and not name.startswith("backbone.")
    }
    with ExitStack() as files:
        found = _tensors(folder, files)
        missing = sorted(by_theirs.keys() - found.keys() - {f"{PREFIX}mask_token"})  # NVIDIA, too, draws it then
        unexpected = sorted(found.keys() - by_theirs.keys())
        if missing or unexpected:
            raise ValueError(
                f"'{folder}': these are not the weights of {what.name}'s head; missing {listed(missing, 3) or 'none'}, "
                f"unexpected {listed(unexpected, 3) or 'none'}: download it again, or choose the recipe of its layout"
            )
        for name in found:
            shape, wanted = list(found[name].get_shape()), list(by_theirs[name].shape)
            if (least := _least_rows(name, rows, wanted[0])) is not None:
                wanted[0] = max(least, shape[0])
            if shape != wanted:
                raise ValueError(f"'{folder}': {name} is {shape}, and by {CONFIG} {wanted}: download both again")
        for name, piece in found.items():
            by_theirs[name].copy_(_ours(name, piece[:], rows, by_theirs[name]))
    policy.measured = {**policy.measured, HEAD_WEIGHTS: what.hub}
    return {name: rows[place] for place, name in enumerate(policy.slots)}


def head_fingerprint(folder: str | Path) -> str:
    """32 hex digits of the settings and weights in a folder, wherever it lies. Raises ValueError as `load_head`."""
    folder = Path(folder).expanduser()
    _settings(folder)
    with ExitStack() as files:
        _tensors(folder, files)
    digest = hashlib.blake2b(digest_size=16)
    settings = [folder / name for name in (CONFIG, IDS) if (folder / name).is_file()]
    for path in sorted({*settings, *(folder / file for file in _files(folder).values())}):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        digest_file(digest, path)
    return digest.hexdigest()


def _settings(folder: Path) -> tuple[Published, dict[str, Any]]:
    """Which model it is, and the settings of its head. Raises ValueError where it is none that is known."""
    config = read_json(folder / CONFIG)
    if config is None:
        raise ValueError(f"'{folder}' holds no {CONFIG}: give the folder of a published model, as hf download makes it")
    known = PUBLISHED.get(config.get("model_type", ""))
    if known is None:
        raise ValueError(
            f"'{folder}': a model of type {config.get('model_type')!r}; heads are read of "
            f"{' and '.join(f'{one.name} ({kind})' for kind, one in PUBLISHED.items())}"
        )
    return known, config.get("action_head_cfg", config)


def _check_sizes(what: Published, settings: Mapping[str, Any], policy: Policy) -> None:
    """Raises ValueError where the policy is of other sizes, or the head of a kind that is not built."""
    try:
        wanted = _sizes(what, settings)
        between = settings.get("vl_self_attention_cfg") or {}
        kinds = {
            "state_history_length": (settings.get("state_history_length", 1), 1),
            "attend_text_every_n_blocks": (settings.get("attend_text_every_n_blocks", 2), 2),
            "diffusion_model_cfg.activation_fn": (
                settings["diffusion_model_cfg"].get("activation_fn", "gelu-approximate"),
                "gelu-approximate",
            ),
            "vl_self_attention_cfg.attention_head_dim": (between.get("attention_head_dim", HEAD_DIM), HEAD_DIM),
            "vl_self_attention_cfg.positional_embeddings": (between.get("positional_embeddings"), None),
        }
        tokens = int(settings["backbone_embedding_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{CONFIG} of {what.name} lacks a setting of its head ({type(error).__name__}: {error}); download it again"
        ) from error
    other = [f"{name} {value!r} (giza builds {built!r})" for name, (value, built) in kinds.items() if value != built]
    if other:
        raise ValueError(f"{CONFIG} of {what.name}: {', '.join(other)}; such a head is not read")
    flags = [
        f"--model.{name.replace('_', '-')} {value} (the policy has {has})"
        for name, value in wanted.items()
        if (has := _field(policy.config, name)) != value
    ]
    if flags:
        raise ValueError(
            f"the head of {what.name} has other sizes than the policy: {', '.join(flags)}; choose --recipe {what.recipe}, and "
            "give these flags where they still differ"
        )
    projector: Any = policy.projector
    if projector.dim != tokens:
        raise ValueError(
            f"the head of {what.name} reads tokens of width {tokens}, and those of '{policy.config.vlm.name}' are "
            f"{projector.dim} wide: choose a model of {tokens} with --backbone, or leave the recipe's own"
        )


def _sizes(what: Published, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a policy's configuration as the head has them. Raises KeyError for a setting that is missing."""
    dit = settings["diffusion_model_cfg"]
    older = what.recipe == "n1_5"
    between = settings.get("vl_self_attention_cfg") or {}
    return {
        "horizon": settings["action_horizon"],
        "max_state_dim": settings["max_state_dim"],
        "max_action_dim": settings["action_dim" if older else "max_action_dim"],
        "hidden": settings["hidden_size"],
        "future_tokens": settings.get("num_target_vision_tokens", 32) if older else 0,
        "padded": "noise",
        "hidden_state": {"n1_5": "masked", "n1_6": "token", "n1_7": "zero"}[what.recipe],
        "vlm.self_attention_layers": between.get("num_layers", 0),
        "vlm.layer_norm": True,
        "vlm.project_to": 0,
        "dit.layers": dit["num_layers"],
        "dit.heads": dit["num_attention_heads"],
        "dit.head_dim": dit["attention_head_dim"],
        "dit.output_dim": dit["output_dim"],
        "dit.cross": "alternate" if settings.get("use_alternate_vl_dit", not older) else "all",
        "flow.buckets": settings["num_timestep_buckets"],
    }


def _field(config: PolicyConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _rows(folder: Path, what: Published, policy: Policy) -> list[int]:
    """Of each place of the policy; adds the names that NVIDIA has. What a folder's own list says of them goes before."""
    own = read_json(folder / IDS) or {}
    if wrong := [name for name, row in own.items() if not isinstance(row, int) or row < 0]:
        raise ValueError(f"{folder / IDS}: {listed(wrong, 3)}: no place among the weights; download it again")
    rows = {name: own.get(name, row) for name, row in what.rows.items()}
    for name in rows:
        policy.add_embodiment(name)
    named = [rows.get(name, rows[NEW]) for name in policy.slots]
    return named + [rows[NEW]] * (policy.config.slots - len(named))


def _least_rows(name: str, rows: list[int], steps: int) -> int | None:
    """How many rows the file must have of a weight of which not all are read; None of one that is read as it is."""
    if name.endswith((".W", ".b")):
        return max(rows) + 1
    return steps if name.endswith("position_embedding.weight") else None


def _ours(name: str, theirs: Tensor, rows: list[int], ours: Tensor) -> Tensor:
    """The rows of the policy's embodiments, the positions of its steps."""
    if name.endswith((".W", ".b")):
        return theirs[rows]
    return theirs[: len(ours)] if name.endswith("position_embedding.weight") else theirs


def _files(folder: Path) -> dict[str, str]:
    """Weight of the head -> the file that holds it; of one file for all it is not known which. Raises ValueError where there
    are no safetensors."""
    index = read_json(folder / INDEX)
    if index is not None:
        where = index.get("weight_map")
        if not isinstance(where, dict):
            raise ValueError(f"{folder / INDEX}: no weight_map; download it again")
        return {name: Path(str(file)).name for name, file in where.items() if name.startswith(PREFIX)}
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"'{folder}' holds neither {INDEX} nor {WEIGHTS}: only safetensors are read, as hf download brings them"
        )
    return {"": WEIGHTS}


def _tensors(folder: Path, files: ExitStack) -> dict[str, Any]:
    """Slices of the head's weights, on disk until they are read, by name. Raises ValueError where a file is missing or damaged,
    or holds other weights than the index says."""
    listed_in = _files(folder)
    found: dict[str, Any] = {}
    for file in sorted(set(listed_in.values())):
        try:
            held = files.enter_context(safe_open(folder / file, framework="pt"))
        except (SafetensorError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{folder / file}: missing or damaged ({reason}); download it again") from error
        found |= {name: held.get_slice(name) for name in _of_head(held.keys())}
    return found


def _of_head(names: Iterator[str] | list[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(PREFIX))
