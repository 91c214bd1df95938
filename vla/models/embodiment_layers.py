"""The state and action MLPs whose weights are chosen by a sample's embodiment.

As in GR00T (REFERENCE.md, section 2) a layer holds weights [E, in, out] for E embodiments; state and action of every robot are
padded to one width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.dit import sinusoid


class EmbodimentLinear(nn.Module):
    """A linear layer with weights of its own for each embodiment: W [E, in, out] ~ N(0, 1 / in), b [E, out] = 0.

    GR00T draws W ~ 0.02 N(0, 1), which at its widths (1024 to 3072) is about the same. In a narrow policy it would make
    tokens of states and actions a hundredth of their positions, and nothing would be learned of them for long.
    """

    def __init__(self, embodiments: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(embodiments, inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(embodiments, outputs))

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        """x [B, L, in], embodiment_id int64 [B] -> [B, L, out]."""
        first = embodiment_id[:1]
        # one robot: a plain product, without a copy of the weights for each sample (and no look at values for one sample,
        # so that acting compiles into one graph)
        if len(embodiment_id) == 1 or bool((embodiment_id == first).all()):
            return x @ self.weight[first].squeeze(0).to(x.dtype) + self.bias[first].to(x.dtype)
        parts, rows = [], []
        for number in embodiment_id.unique().tolist():
            mine = (embodiment_id == number).nonzero()[:, 0]
            parts.append(x[mine] @ self.weight[number].to(x.dtype) + self.bias[number].to(x.dtype))
            rows.append(mine)
        return torch.cat(parts)[torch.cat(rows).argsort()]


class EmbodimentMLP(nn.Module):
    """Two such layers with a ReLU between: [B, L, in] -> [B, L, out]."""

    def __init__(self, embodiments: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(embodiments, inputs, hidden)
        self.layer2 = EmbodimentLinear(embodiments, hidden, outputs)

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        return self.layer2(F.relu(self.layer1(x, embodiment_id)), embodiment_id)


class EmbodimentActionEncoder(nn.Module):
    """Noised actions [B, H, in] and flow times [B] -> tokens [B, H, width]: in -> width, beside the time's sinusoid,
    2 width -> width (swish) -> width."""

    def __init__(self, embodiments: int, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layer1 = EmbodimentLinear(embodiments, inputs, width)
        self.layer2 = EmbodimentLinear(embodiments, 2 * width, width)
        self.layer3 = EmbodimentLinear(embodiments, width, width)

    def forward(self, action: Tensor, time_bucket: Tensor, embodiment_id: Tensor) -> Tensor:
        embedded = self.layer1(action, embodiment_id)
        time = sinusoid(time_bucket, self.width).to(embedded.dtype)[:, None].expand_as(embedded)
        return self.layer3(F.silu(self.layer2(torch.cat([embedded, time], -1), embodiment_id)), embodiment_id)


class EmbodimentLayers(nn.Module):
    """All weights that belong to a robot: of its state, its noised actions, and what becomes its actions."""

    def __init__(
        self, embodiments: int, *, state_dim: int, action_dim: int, hidden: int, width: int, output_dim: int
    ) -> None:
        super().__init__()
        self.state = EmbodimentMLP(embodiments, state_dim, hidden, width)
        self.action = EmbodimentActionEncoder(embodiments, action_dim, width)
        self.decoder = EmbodimentMLP(embodiments, output_dim, hidden, action_dim)

    @torch.no_grad()
    def copy(self, source: int, target: int) -> None:
        """Embodiment `target` begins with the weights of `source`."""
        for parameter in self.parameters():
            parameter[target] = parameter[source]
