"""Embodiments: named slots, and the state and action MLPs whose weights are chosen by a sample's slot.

As in GR00T (REFERENCE.md, section 2) a layer holds weights [slots, in, out]; state and action of every robot are padded
to one width. A robot is one name; a new one takes a free slot and may start from the nearest that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.config import CAPACITY, SLOTS
from vla.models.dit import sinusoid


class SlotLinear(nn.Module):
    """A linear layer with weights of its own for each slot: W [slots, in, out] ~ N(0, 1 / in), b [slots, out] = 0.

    GR00T draws W ~ 0.02 N(0, 1), which at its widths (1024 to 3072) is about the same. In a narrow policy it would make
    tokens of states and actions a hundredth of their positions, and nothing would be learned of them for long.
    """

    def __init__(self, slots: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(slots, inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(slots, outputs))

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:
        """x [B, L, in], slot int64 [B] -> [B, L, out]."""
        first = slot[:1]
        # one robot: a plain product, without a copy of the weights for each sample (and no look at values for one sample,
        # so that acting compiles into one graph)
        if len(slot) == 1 or bool((slot == first).all()):
            return x @ self.weight[first].squeeze(0).to(x.dtype) + self.bias[first].to(x.dtype)
        parts, rows = [], []
        for number in slot.unique().tolist():
            mine = (slot == number).nonzero()[:, 0]
            parts.append(x[mine] @ self.weight[number].to(x.dtype) + self.bias[number].to(x.dtype))
            rows.append(mine)
        return torch.cat(parts)[torch.cat(rows).argsort()]

    @torch.no_grad()
    def copy_slot(self, source: int, target: int) -> None:
        self.weight[target] = self.weight[source]
        self.bias[target] = self.bias[source]


class SlotMLP(nn.Module):
    """Two slot layers with a ReLU between: [B, L, in] -> [B, L, out]."""

    def __init__(self, slots: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = SlotLinear(slots, inputs, hidden)
        self.layer2 = SlotLinear(slots, hidden, outputs)

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:
        return self.layer2(F.relu(self.layer1(x, slot)), slot)


class SlotActionEncoder(nn.Module):
    """Noised actions [B, H, in] and flow times [B] -> tokens [B, H, width]: in -> width, beside the time's sinusoid,
    2 width -> width (swish) -> width."""

    def __init__(self, slots: int, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layer1 = SlotLinear(slots, inputs, width)
        self.layer2 = SlotLinear(slots, 2 * width, width)
        self.layer3 = SlotLinear(slots, width, width)

    def forward(self, action: Tensor, time_bucket: Tensor, slot: Tensor) -> Tensor:
        embedded = self.layer1(action, slot)
        time = sinusoid(time_bucket, self.width).to(embedded.dtype)[:, None].expand_as(embedded)
        return self.layer3(F.silu(self.layer2(torch.cat([embedded, time], -1), slot)), slot)


class Embodiments(nn.Module):
    """The slots' names, and all weights that belong to a robot."""

    def __init__(
        self,
        *,
        state_dim: int,
        action_dim: int,
        hidden: int,
        width: int,
        output_dim: int,
        names: Sequence[str] = SLOTS,
        capacity: int = CAPACITY,
    ) -> None:
        super().__init__()
        if len(names) > capacity or len(set(names)) != len(names):
            raise ValueError(f"slots {list(names)}: at most {capacity} different names")
        self.names = list(names)
        self.capacity = capacity
        self.state = SlotMLP(capacity, state_dim, hidden, width)
        self.action = SlotActionEncoder(capacity, action_dim, width)
        self.decoder = SlotMLP(capacity, output_dim, hidden, action_dim)

    def slot(self, name: str) -> int:
        """Number of the slot. Raises ValueError for a name that has none."""
        if name not in self.names:
            raise ValueError(
                f"embodiment '{name}': this policy has no such slot; it has {', '.join(self.names)}. Add it with "
                f"add_embodiment('{name}', start_from=...) or giza ground --embodiment {name} --start-from SLOT"
            )
        return self.names.index(name)

    def add(self, name: str, *, start_from: str | None = None) -> int:
        """A slot for a new robot, its weights those of `start_from` where given. A name that is there keeps its slot, but
        takes the weights where `start_from` is given."""
        source = None if start_from is None else self.slot(start_from)
        if name not in self.names:
            if len(self.names) >= self.capacity:
                raise ValueError(
                    f"embodiment '{name}': all {self.capacity} slots are taken; use the name of one that is not needed: "
                    f"{', '.join(self.names)}"
                )
            self.names.append(name)
        number = self.slot(name)
        if source is not None:
            self._each(lambda layer: layer.copy_slot(source, number))
        return number

    def rename(self, names: Sequence[str]) -> None:
        """Names all slots anew. Raises ValueError where there are more than the weights have room for."""
        if len(names) > self.capacity:
            raise ValueError(f"{len(names)} slots: a policy has at most {self.capacity}")
        self.names = list(names)

    def _each(self, do: Callable[[SlotLinear], None]) -> None:
        for module in self.modules():
            if isinstance(module, SlotLinear):
                do(module)
