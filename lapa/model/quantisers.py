"""Quantisers of latent actions: NSVQ (LAPA's), VQ, residual VQ, FSQ, and continuous latents (KL or none).

Codes that nobody uses are replaced by random live *encodings*, never by copies of other codes (which would stay duplicates).
Usage, encodings and noise are those of the whole batch, however many ranks share it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flare import ranks
from lapa.model.config import QuantiserConfig
from lapa.model.kinds import QUANTISERS
from lapa.model.quantiser import Quantised, Quantiser
from lapa.model.two_codebooks import TwoCodebooks


def register(name: str, cls: type[Quantiser]) -> None:
    """Makes `QuantiserConfig(kind=name)` build `cls`. Raises ValueError for the name of one of giza's own."""
    QUANTISERS.register(name, cls)


def build_quantiser(config: QuantiserConfig, dim: int, tokens: int, *, stage: int = 1) -> Quantiser:
    """The quantiser of `config` for latents of `tokens` tokens of `dim` dimensions; `stage` 2 is UniVLA's."""
    if stage == 2:
        return TwoCodebooks(build_quantiser(config, dim, tokens), build_quantiser(config, dim, tokens))
    quantiser: Quantiser = QUANTISERS[config.kind](config, dim, tokens)
    return CompandedQuantiser(quantiser, dim) if config.compand and not quantiser.continuous else quantiser


class RenewedCodebook(Quantiser):
    """A codebook that gradients move; codes that nobody uses are replaced by encodings. A subclass defines
    `substitute`."""

    usage: Tensor

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        super().__init__(config, dim, tokens)
        # a property of the class has the name already, so it cannot be set as an attribute
        self._parameters["codebook"] = nn.Parameter(torch.randn(config.codebook_size, dim))
        self.register_buffer("usage", torch.full((config.codebook_size,), 1 / config.codebook_size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @property
    def codebook(self) -> Tensor:
        codebook = self._parameters["codebook"]
        assert codebook is not None
        return codebook

    def forward(self, z: Tensor) -> Quantised:
        flat = z.float().flatten(0, -2)
        if self.training and not self.started:
            self._start(z.detach().float())
        codes = torch.cdist(flat, self.codebook).argmin(-1)
        chosen = self.codebook[codes]
        if self.training:
            self._renew(z.detach().float(), codes)
        quantized, loss = self.substitute(flat, chosen)
        return Quantised(quantized.view_as(z), codes.view(z.shape[:-1]), loss)

    @abstractmethod
    def substitute(self, z: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder sees [M, dim] of encodings `z` [M, dim] whose codes' vectors are `chosen`, and the loss."""

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        """The first codes are encodings, so that none starts out of reach."""
        self.codebook.copy_(random_encodings(z, self.config.codebook_size))
        self.started.fill_(True)  # type: ignore[operator]

    @torch.no_grad()
    def _renew(self, z: Tensor, codes: Tensor) -> None:
        counts = ranks.sum_over_ranks(torch.bincount(codes, minlength=self.config.codebook_size).float())
        self.usage.lerp_(counts / counts.sum(), 1 - self.config.decay)
        dead = self.usage < self.config.expire_below / self.config.codebook_size
        if dead.any():
            self.codebook[dead] = random_encodings(z, int(dead.sum()))
            self.usage[dead] = 1 / self.config.codebook_size


class NoiseSubstitutionQuantiser(RenewedCodebook):
    """NSVQ (Vali and Backstrom, IEEE Access 2022): the quantisation error is replaced by noise of the same length.

    In training, quantized = z + |z - c| * n / |n| with n ~ N(0, I): gradients reach both encoder and codebook without a
    straight-through estimator or a commitment loss. In evaluation, quantized = c.
    """

    def substitute(self, z: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return chosen, z.new_zeros(())
        noise = ranks.normal(len(z) // self.tokens, self.tokens, z.shape[-1], device=z.device).flatten(0, 1)
        unit = noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        # the small floor keeps the norm's gradient finite where an encoding sits on its code
        return z + (z - chosen).pow(2).sum(-1, keepdim=True).add(1e-8).sqrt() * unit, z.new_zeros(())


class StraightThroughQuantiser(RenewedCodebook):
    """VQ as van den Oord et al. have it (arXiv 1711.00937, eq. 3; UniVLA): gradients pass straight through, codes are
    drawn to their encodings, and encodings, `commitment` times as hard, to their codes."""

    def substitute(self, z: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        loss = F.mse_loss(chosen, z.detach()) + self.config.commitment * F.mse_loss(z, chosen.detach())
        # in evaluation the code itself: z + (chosen - z) differs from it in the last bits
        return z + (chosen - z).detach() if self.training else chosen, loss


@torch.no_grad()
def random_encodings(z: Tensor, count: int) -> Tensor:
    """`count` of the encodings of the whole batch, z [B, tokens, dim] being this rank's, at random; without repeats where there
    are enough. The same on every rank."""
    flat = ranks.rows_of_all(z).flatten(0, -2)
    same: dict[str, Any] = {"generator": ranks.generator(flat.device), "device": flat.device}
    if len(flat) >= count:
        chosen = flat[torch.randperm(len(flat), **same)[:count]].clone()
    else:
        chosen = flat[torch.randint(len(flat), (count,), **same)]
        # too few to be distinct: never exact copies
        chosen = chosen + 0.01 * flat.std() * torch.randn(chosen.shape, **same)
    return chosen


class _LearnedCodebooks(Quantiser):
    """What vq and rvq of vector-quantize-pytorch share: dead-code expiry switched on (it is off by default), and in hits a
    batch there, where it is a share of the fair share here."""

    net: nn.Module

    def _options(self, dim: int) -> dict[str, Any]:
        return {
            "dim": dim,
            "codebook_size": self.config.codebook_size,
            "decay": self.config.decay,
            "commitment_weight": self.config.commitment,
            "kmeans_init": True,
            "kmeans_iters": 10,
            "threshold_ema_dead_code": 1,
            "sync_codebook": False,  # see _follow_all_ranks
        }

    @property
    @abstractmethod
    def _codebooks(self) -> list[Any]:
        """The library's."""

    @property
    def settled(self) -> bool:
        return all(bool(codebook.initted.all()) for codebook in self._codebooks)

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        if self.training:
            fair = ranks.size() * z.shape[0] * z.shape[1] / self.config.codebook_size
            for codebook in self._codebooks:
                _follow_all_ranks(codebook, self.tokens)
                codebook.threshold_ema_dead_code = self.config.expire_below * fair
                codebook.reset_cluster_size = fair
        with torch.autocast(z.device.type, enabled=False):  # distances in bf16 choose wrong codes
            quantized, codes, loss = self.net(z)
        return Quantised(quantized, codes.long().flatten(1), loss.sum())


def _follow_all_ranks(codebook: Any, tokens: int) -> None:
    """In place of the library's sync_codebook, which must be known when a model is built (there is no process group yet then),
    and draws by how the batch is divided."""

    def draw(samples: Tensor, count: int) -> Tensor:
        """[1, B tokens, dim] -> [1, count, dim]."""
        return random_encodings(samples[0].unflatten(0, (-1, tokens)), count)[None]

    def add_up(value: Tensor) -> None:
        value.copy_(ranks.sum_over_ranks(value))

    codebook.sample_fn = codebook.replace_sample_fn = draw
    codebook.kmeans_all_reduce_fn = codebook.all_reduce_fn = add_up


class VectorQuantiser(_LearnedCodebooks):
    """VQ: the nearest code, gradients straight through, codes that follow the running mean of their encodings."""

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        super().__init__(config, dim, tokens)
        from vector_quantize_pytorch import VectorQuantize

        self.net = VectorQuantize(**self._options(dim))

    @property
    def _codebooks(self) -> list[Any]:
        return [self.net._codebook]

    @property
    def codebook(self) -> Tensor:
        return self.net.codebook  # type: ignore[return-value]


class ResidualQuantiser(_LearnedCodebooks):
    """Residual VQ: each level quantises what the levels before it left, with a codebook of its own; a token's codes lie side
    by side."""

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        super().__init__(config, dim, tokens)
        from vector_quantize_pytorch import ResidualVQ

        self.net = ResidualVQ(num_quantizers=config.levels, **self._options(dim))

    @property
    def _codebooks(self) -> list[Any]:
        return [layer._codebook for layer in self.net.layers]  # type: ignore[union-attr]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * (self.tokens * self.config.levels)


def fsq_levels(codebook_size: int) -> list[int]:
    """Levels, each at least 3, whose product is nearest to the wanted size (arXiv 2309.15505, table 1, and smaller)."""
    known = ([3, 3], [3, 4], [4, 4], [4, 5], [3, 3, 3], [8, 4], [8, 8], [8, 4, 4], [8, 6, 5])
    bigger = ([8, 5, 5, 5], [7, 5, 5, 5, 5])
    return min([*known, *bigger], key=lambda levels: abs(math.prod(levels) - codebook_size))


class FiniteScalarQuantiser(Quantiser):
    """FSQ (arXiv 2309.15505): a few projections of the latent, each rounded to one of its levels; no codebook to learn."""

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        super().__init__(config, dim, tokens)
        from vector_quantize_pytorch import FSQ

        with torch.device("cpu"):  # the library reads what it just made, which the meta device does not hold
            self.net = FSQ(levels=fsq_levels(config.codebook_size), dim=dim)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (math.prod(fsq_levels(self.config.codebook_size)),) * self.tokens

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        with torch.autocast(z.device.type, enabled=False):  # rounding in bf16 chooses wrong codes
            quantized, codes = self.net(z)
        return Quantised(quantized, codes.long().flatten(1), z.new_zeros(()))


class NoBottleneck(Quantiser):
    """No codes: latents as they are."""

    continuous = True

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        return Quantised(z, None, z.new_zeros(()))


class KlBottleneck(Quantiser):
    """No codes: the latent is drawn from N(mean, sigma), which is pulled to N(0, I); the mean alone tells sigma."""

    continuous = True

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        super().__init__(config, dim, tokens)
        self.to_log_variance = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        return self.drawn(z, self.to_log_variance(z).float().clamp(-20, 10))

    def drawn(self, mean: Tensor, log_variance: Tensor) -> Quantised:
        """In evaluation the mean itself."""
        divergence = 0.5 * (mean.pow(2) + log_variance.exp() - log_variance - 1).sum(-1).mean()
        if self.training:
            z = mean + ranks.normal(*mean.shape, device=mean.device) * (0.5 * log_variance).exp()
        else:
            z = mean
        return Quantised(z, None, self.config.kl_weight * divergence)


class GaussianBottleneck(KlBottleneck):
    """The same, where the encoder gives a log variance beside each mean (AdaWorld, DreamDojo)."""

    moments = 2

    def __init__(self, config: QuantiserConfig, dim: int, tokens: int) -> None:
        Quantiser.__init__(self, config, dim, tokens)

    def forward(self, z: Tensor) -> Quantised:
        mean, log_variance = z.float().chunk(2, -1)
        return self.drawn(mean, log_variance)


class CompandedQuantiser(Quantiser):
    """`inner` sees u = (z - mean) / scale with its length r compressed to log(1 + r); what it returns is expanded again.

    mean and scale are running statistics of the training latents.
    """

    mean: Tensor
    scale: Tensor
    started: Tensor

    def __init__(self, inner: Quantiser, dim: int) -> None:
        super().__init__(inner.config, dim, inner.tokens)
        self.inner = inner
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @property
    def codebook(self) -> Tensor | None:
        codebook = self.inner.codebook
        return None if codebook is None else self.expand(codebook)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.inner.sizes

    @property
    def settled(self) -> bool:
        return self.inner.settled

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        if self.training:
            self._track(z.detach())
        out = self.inner(self.compress(z))
        return Quantised(self.expand(out.quantized), out.codes, out.loss)

    def compress(self, z: Tensor) -> Tensor:
        """z [..., dim] -> u."""
        u = (z - self.mean) / self.scale
        r = u.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return u * torch.log1p(r) / r

    def expand(self, u: Tensor) -> Tensor:
        """u [..., dim] -> z, the inverse of `compress`."""
        r = u.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return u * torch.expm1(r.clamp_max(8.0)) / r * self.scale + self.mean

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        mean, deviation = ranks.moments(z.flatten(0, -2), correction=1)
        scale = deviation.mean().clamp_min(1e-6)
        share = 0.02 if self.started else 1.0
        self.mean.lerp_(mean, share)
        self.scale.lerp_(scale, share)
        self.started.fill_(True)
