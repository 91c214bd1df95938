"""Run by an environment that has torch and diffusers, without giza: what NVIDIA's own code makes of an action head.

    python groot_head_peer.py CHECKOUT FOLDER [--published]

CHECKOUT: a checkout of Isaac-GR00T, N1.5, N1.6 or N1.7. Writes to FOLDER what NVIDIA publishes of a model, of its head alone and with
drawn weights (config.json, safetensors in shards with their index), and expected.safetensors: inputs and what
the head made of them, with the names and shapes of its weights beside. It is tiny; `--published`: of the published size, its
weights in bfloat16. Of what the checkout imports, all but torch and diffusers is stood in for: the head uses none of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from safetensors.torch import save_file

BATCH, TOKENS = 4, 9


def drawn(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights of these names, the same wherever they are drawn: NumPy's legacy generator never changes."""
    found = {}
    for name, shape in shapes.items():
        generator = np.random.RandomState(zlib.crc32(name.encode()))
        inputs = shape[-2] if name.endswith(".W") else shape[-1]  # Linear's weights are [out, in]
        scale = 0.3 if len(shape) == 1 or name.endswith(".b") else 1 / np.sqrt(inputs)
        value = scale * generator.standard_normal(shape) + (name.endswith("norm.weight") or ".vlln.weight" in name)
        found[name] = torch.from_numpy(value).to(dtype)
    return found


def write_published(folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """As on the hub: two shards, the first of a model's other part."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    shards = [["backbone.eagle_linear.weight"], names[: len(names) // 2], names[len(names) // 2 :]]
    held = {**weights, "backbone.eagle_linear.weight": torch.zeros(2, 2)}
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: held[name].contiguous() for name in shard}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def sizes(published: bool) -> dict[str, Any]:
    heads, head_dim, hidden = (32, 48, 1024) if published else (2, 12, 20)
    return {
        "input_embedding_dim": heads * head_dim,
        "backbone_embedding_dim": 2048 if published else 128,
        "hidden_size": hidden,
        "add_pos_embed": True,
        "use_vlln": True,
        "noise_beta_alpha": 1.5,
        "noise_beta_beta": 1.0,
        "noise_s": 0.999,
        "num_timestep_buckets": 1000,
        "num_inference_timesteps": 4,
        "diffusion_model_cfg": {
            "attention_head_dim": head_dim,
            "num_attention_heads": heads,
            "dropout": 0.2,
            "final_dropout": True,
            "interleave_self_attention": True,
            "norm_type": "ada_norm",
            "output_dim": hidden,
            "positional_embeddings": None,
        },
    }


def between(published: bool) -> dict[str, Any]:
    """Self-attention over the tokens before the DiT."""
    return {
        "attention_head_dim": 64,
        "dropout": 0.2,
        "final_dropout": True,
        "num_attention_heads": 32 if published else 2,
        "num_layers": 4 if published else 2,
        "positional_embeddings": None,
    }


def n1_5(published: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The head, its settings, and config.json."""
    code = importlib.import_module("gr00t.model.action_head.flow_matching_action_head")
    settings = sizes(published) | {
        "action_dim": 32 if published else 5,
        "max_action_dim": 32 if published else 5,
        "max_state_dim": 64 if published else 7,
        "action_horizon": 16 if published else 6,
        "num_target_vision_tokens": 32 if published else 3,
        "vl_self_attention_cfg": between(published),
    }
    settings["diffusion_model_cfg"] |= {
        "num_layers": 16 if published else 4,
        "cross_attention_dim": settings["backbone_embedding_dim"],
    }
    head = code.FlowmatchingActionHead(code.FlowmatchingActionHeadConfig(**settings))
    return head, settings, {"model_type": "gr00t_n1_5", "action_head_cfg": settings}


def n1_6(published: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Likewise."""
    code = importlib.import_module("gr00t.model.gr00t_n1d6.gr00t_n1d6")
    configs = importlib.import_module("gr00t.configs.model.gr00t_n1d6")
    settings = sizes(published) | {
        "max_action_dim": 128 if published else 5,
        "max_state_dim": 128 if published else 7,
        "action_horizon": 50 if published else 6,
        "state_dropout_prob": 0.5,
        "use_alternate_vl_dit": True,
        "attend_text_every_n_blocks": 2,
    }
    settings["diffusion_model_cfg"]["num_layers"] = 32 if published else 8
    head = code.Gr00tN1d6ActionHead(configs.Gr00tN1d6Config(**settings))
    return head, settings, {"model_type": "Gr00tN1d6", **settings}


def n1_7(published: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Likewise; the published one has the layers between tokens and DiT that its deployment notes speak of."""
    code = importlib.import_module("gr00t.model.gr00t_n1d7.gr00t_n1d7")
    configs = importlib.import_module("gr00t.configs.model.gr00t_n1d7")
    settings = sizes(published) | {
        "max_action_dim": 132 if published else 5,
        "max_state_dim": 132 if published else 7,
        "action_horizon": 40 if published else 6,
        "state_dropout_prob": 0.8,
        "state_history_length": 1,
        "use_alternate_vl_dit": True,
        "attend_text_every_n_blocks": 2,
    }
    settings["diffusion_model_cfg"]["num_layers"] = 32 if published else 8
    if published:
        settings["vl_self_attention_cfg"] = between(published)
    head = code.Gr00tN1d7ActionHead(configs.Gr00tN1d7Config(**settings))
    return head, settings, {"model_type": "Gr00tN1d7", **settings}


def inputs(settings: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of four samples of two robots; five of nine tokens are an image's."""
    generator = np.random.RandomState(7)
    horizon, action, state = (settings[name] for name in ("action_horizon", "max_action_dim", "max_state_dim"))
    shapes = {
        "features": (BATCH, TOKENS, settings["backbone_embedding_dim"]),
        "state": (BATCH, 1, state),
        "action": (BATCH, horizon, action),
        "noise": (BATCH, horizon, action),
    }
    found = {name: torch.from_numpy(generator.standard_normal(shape)).float() for name, shape in shapes.items()}
    found["image_mask"] = (torch.arange(TOKENS) < 5).expand(BATCH, -1).clone()
    found["mask"] = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    found["time"] = torch.tensor([0.0, 0.1234, 0.5, 0.999])
    found["hidden"] = torch.zeros(BATCH, dtype=torch.bool)
    return found


class Fields(dict):
    """A dict whose keys are attributes, too, as transformers' BatchFeature."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.__dict__ = self


def stand_in(checkout: Path) -> None:
    """Packages of the checkout without what their __init__ imports; transformers' classes without what they do."""
    versions = ("gr00t.model.gr00t_n1d6", "gr00t.model.gr00t_n1d7")
    for name in ("gr00t", "gr00t.model", *versions, "gr00t.configs", "gr00t.configs.model"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules["gr00t.configs.model"].register_model_config = lambda *_: None  # type: ignore[attr-defined]
    transformers = MagicMock()
    transformers.PretrainedConfig = type("PretrainedConfig", (), {"__init__": lambda self, **_: None})
    transformers.PreTrainedModel = type("PreTrainedModel", (), {})
    features = types.SimpleNamespace(BatchFeature=lambda data: Fields(data))
    sys.modules |= {"transformers": transformers, "transformers.feature_extraction_utils": features}  # type: ignore[dict-item]
    sys.modules |= dict.fromkeys(("tree", "gr00t.model.modules.eagle_backbone"), MagicMock())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--published", action="store_true")
    given = parser.parse_args()
    import diffusers

    stand_in(given.checkout)
    makers = {"action_head": n1_5, "gr00t_n1d6": n1_6, "gr00t_n1d7": n1_7}
    make = next(make for name, make in makers.items() if (given.checkout / "gr00t" / "model" / name).is_dir())
    head, settings, config = make(given.published)
    prefix = "action_head."
    shapes = {f"{prefix}{name}": list(value.shape) for name, value in head.state_dict().items()}
    weights = drawn(shapes, torch.bfloat16 if given.published else torch.float32)
    for name, value in head.eval().state_dict().items():
        value.copy_(weights[prefix + name])
    ids = {
        n1_5: {"gr1": 24, "new_embodiment": 31},
        n1_6: {"gr1": 20, "libero_panda": 2},
        n1_7: {"real_r1_pro_sharpa_relative_eef": 26, "libero_sim": 2},
    }[make]
    robots = torch.tensor(list(ids.values()))[[0, 1, 0, 1]]
    shown = inputs(settings)
    if make is not n1_5:  # which sees padding, and has nothing for a state that is hidden
        if "vl_self_attention_cfg" not in settings:  # that, too, sees padding
            shown["mask"][1, -1] = shown["mask"][3, 0] = False
        shown["image_mask"][2] = False  # no image at all
        shown["hidden"][1:3] = True
    kept: dict[str, torch.Tensor] = {}
    head.action_decoder.register_forward_hook(lambda _, __, output: kept.update(decoded=output))
    head.sample_time = lambda *_, **options: shown["time"].to(options["dtype"])

    def played(call: Any, dtype: torch.dtype, mask: torch.Tensor | None = None) -> Any:
        """What NVIDIA's code makes of the inputs, its noise given; with a `mask`, of actions that are known where it is 1."""
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in shown.items()}
        seen = {"backbone_features": cast["features"], "backbone_attention_mask": cast["mask"]}
        given = {"state": cast["state"], "embodiment_id": robots}
        if call == head:  # in acting, N1.7 would go on from an action
            mask = torch.ones_like(cast["action"]) if mask is None else mask
            given |= {"action": cast["action"] * mask, "action_mask": mask}
        with (
            patch.object(torch, "randn", lambda *_, **options: shown["noise"].to(options["dtype"])),
            patch.object(torch, "rand", lambda *_, **__: torch.where(shown["hidden"], 0.0, 1.0)),
        ):
            return call(Fields({**seen, "image_mask": cast["image_mask"]}), Fields(given))

    def velocity(dtype: torch.dtype) -> torch.Tensor:
        played(head.to(dtype), dtype)
        return kept["decoded"][:, -settings["action_horizon"] :]

    sampled = played(head.get_action, torch.float32)["action_pred"]
    head.training = make is n1_7  # which hides states then alone; the layers below drop nothing
    expected = {**shown, "sampled": sampled, "velocity": velocity(torch.float32)}
    expected["action_mask"] = torch.ones_like(shown["action"])
    expected["action_mask"][..., -1] = 0  # the robot has fewer
    expected["loss"] = played(head, torch.float32, expected["action_mask"])["loss"]
    if not given.published:  # of twice the size
        expected["velocity_double"] = velocity(torch.float64)
    write_published(given.folder, config, weights)
    told = {"config": json.dumps(config), "shapes": json.dumps(shapes), "robots": json.dumps(list(ids))}
    save_file(
        {name: value.contiguous() for name, value in expected.items()},
        given.folder / "expected.safetensors",
        metadata={**told, "diffusers": diffusers.__version__, "torch": torch.__version__},
    )
    print(json.dumps({"weights": len(shapes), "numbers": sum(value.numel() for value in weights.values())}))


if __name__ == "__main__":
    main()
