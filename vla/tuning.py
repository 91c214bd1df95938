"""What of a policy is trained: whole parts, the top of the vision-language model, or low-rank adapters (LoRA, 2106.09685).

A few percent of the parameters suffice for a new task; `apply_tuning` says how many it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from vla.training_config import TuningConfig

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "q", "k", "v", "out"})
"""Names of the linear layers of an attention: transformers', and this package's."""

OF_PROJECTOR = ("action_position", "direct", "no_state")
"""What goes with the projector, where a policy has it, as GR00T's `tune_projector` has the action tokens' positions and what
stands for a state that is hidden."""
OF_DIT = ("future",)
"""What goes with the DiT: tokens of its own sequence."""


@dataclass(frozen=True)
class TuningReport:
    """Parameters of a policy; one that several modules share is counted once."""

    trained: int
    total: int
    by_part: dict[str, tuple[int, int]]
    """Trained and all parameters of each child of the policy."""

    @property
    def share(self) -> float:
        """Trained of all."""
        return self.trained / max(1, self.total)

    def __str__(self) -> str:
        lines = [f"trained: {self.trained:,} of {self.total:,} parameters ({self.share:.1%})"]
        width = max(map(len, self.by_part), default=0)
        lines += [
            f"  {name:<{width}}  {trained:>13,} of {total:>13,}" for name, (trained, total) in self.by_part.items()
        ]
        return "\n".join(lines)


def apply_tuning(policy: nn.Module, config: TuningConfig, *, log: Callable[[str], None] = print) -> TuningReport:
    """Sets what takes gradients in `policy.backbone`, `.projector`, `.embodiment_layers` and `.dit`, and in what feeds tokens into
    these (`OF_PROJECTOR`, `OF_DIT`); other parts stay as they are.

    Adapters are put in place (B = 0: the policy computes what it did); apply it again, with the same config, to a policy
    whose saved state holds adapters, and load the state then. Logs the report. Raises ValueError for parts that the
    backbone does not have, and for a policy that holds adapters already.
    """
    if any(_adapted(policy)):
        raise ValueError("this policy holds LoRA adapters already: merge them first (merge_lora)")
    for name in ("projector", "embodiment_layers"):
        _part(policy, name).requires_grad_(config.projector)
    _part(policy, "dit").requires_grad_(config.dit)
    for names, trained in ((OF_PROJECTOR, config.projector), (OF_DIT, config.dit)):
        for part in (getattr(policy, name, None) for name in names):
            if part is not None:
                part.requires_grad_(trained)
    backbone: Any = _part(policy, "backbone")
    backbone.set_trainable(vision=config.vision, top_layers=config.vlm_top_layers)
    if config.lora_rank:
        part = _part(policy, "dit" if config.lora_on == "dit" else "backbone")
        _inject(getattr(part, "language_layers", part), config)
    report = count_trained(policy)
    log(str(report))
    return report


def count_trained(policy: nn.Module) -> TuningReport:
    """Which of the policy's parameters take gradients."""
    by_part = {name: _count(part.parameters()) for name, part in policy.named_children()}
    own = _count(policy.parameters(recurse=False))
    if own[1]:
        by_part["(its own)"] = own
    return TuningReport(*_count(policy.parameters()), by_part)


def merge_lora(policy: nn.Module) -> int:
    """Adds every adapter to the weights it adapts and takes it away; the number of merged layers.

    The policy computes the same, to rounding, and its state has the names of an unadapted one. Raises ValueError where an
    adapter is not finite.
    """
    found = dict(_adapted(policy))
    for name, layer in found.items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(policy.get_submodule(parent), child, layer.get_base_layer())
    for module in policy.modules():
        module.__dict__.pop("peft_config", None)
    return len(found)


def _inject(part: nn.Module, config: TuningConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    if any(parameter.requires_grad for parameter in part.parameters()):
        raise ValueError(
            f"lora_rank {config.lora_rank} on a {config.lora_on} that is trained whole: choose one of the two"
        )
    linear = [name for name, module in part.named_modules() if isinstance(module, nn.Linear)]
    if config.lora_targets:
        targets = [name for name in linear if name.rpartition(".")[2] in config.lora_targets]
    else:
        targets = [name for name in linear if _is_of_attention(part, name)]
    if not targets:
        there = sorted({name.rpartition(".")[2] for name in linear})
        wanted = list(config.lora_targets) or sorted(ATTENTION)
        raise ValueError(f"lora_targets {wanted}: no linear layer of the {config.lora_on} is called so; it has {there}")
    exactly = "|".join(map(re.escape, targets))  # peft matches a string as a whole, but the names of a list as endings
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=exactly)  # type: ignore[arg-type]
    inject_adapter_in_model(lora, part)


def _is_of_attention(part: nn.Module, name: str) -> bool:
    parent, _, child = name.rpartition(".")
    siblings = dict(part.get_submodule(parent).named_children())
    return child in ATTENTION and bool({"v", "v_proj"} & set(siblings))


def _adapted(policy: nn.Module) -> Iterable[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in policy.named_modules() if isinstance(module, LoraLayer)]


def _part(policy: nn.Module, name: str) -> nn.Module:
    part = getattr(policy, name, None)
    if not isinstance(part, nn.Module):
        raise ValueError(
            f"a {type(policy).__name__} without '{name}' is no policy: it has {[child for child, _ in policy.named_children()]}"
        )
    return part


def _count(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    sizes = [(p.numel(), p.requires_grad) for p in parameters]  # modules name a shared parameter once
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
