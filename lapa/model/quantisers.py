"""Quantisers of latent actions: NSVQ (LAPA's), VQ, residual VQ, FSQ, and continuous latents (KL or none).

All see latents [B, tokens, dim] and answer with `Quantised`. Codes that nobody uses are replaced by random live
*encodings*, never by copies of other codes (which would stay duplicates), and over all ranks alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Kind = Literal["nsvq", "vq", "rvq", "fsq", "kl", "none"]


@dataclass(frozen=True)
class QuantiserConfig:
    """How latents become codes."""

    kind: Kind = "vq"
    """nsvq: noise substitution (Vali and Backstrom 2022, as LAPA uses it); vq, rvq, fsq: vector-quantize-pytorch; kl: a
    variational bottleneck; none: no bottleneck but the dimension."""
    codebook_size: int = 16
    """Codes per token; with fsq the nearest product of its levels."""
    levels: int = 2
    """Stages of the residual quantiser (rvq)."""
    commitment: float = 0.25
    """Weight of the pull of encodings to their codes (vq, rvq)."""
    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term (kl); AdaWorld uses 2e-4."""
    compand: bool = False
    """Quantise centred latents whose length is compressed to log(1 + length): motion is heavy-tailed, and without it most
    codes go to the few largest motions."""
    expire_below: float = 0.1
    """A code used less than this share of its fair share (1 / codebook_size), on a running mean, is replaced."""
    decay: float = 0.99
    """Running mean of code usage and of the codes of vq and rvq, per step."""

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size {self.codebook_size}: a codebook holds at least 2 codes")
        if not 0 <= self.expire_below < 1:
            raise ValueError(f"expire_below {self.expire_below}: a share of the fair share, in [0, 1)")

    @property
    def discrete(self) -> bool:
        """Whether there are codes."""
        return self.kind in {"nsvq", "vq", "rvq", "fsq"}


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of latents [B, tokens, dim]."""

    quantized: Tensor
    """[B, tokens, dim], what the decoder sees; gradients pass to the latents."""
    codes: Tensor | None
    """int64 [B, tokens], or [B, tokens * levels] for rvq; None for continuous latents."""
    loss: Tensor
    """Scalar to be added to the training loss."""


def fsq_levels(codebook_size: int) -> list[int]:
    """Levels, each at least 3, whose product is nearest to the wanted size (arXiv 2309.15505, table 1, and smaller)."""
    known = ([3, 3], [3, 4], [4, 4], [4, 5], [3, 3, 3], [8, 4], [8, 8], [8, 4, 4], [8, 6, 5])
    bigger = ([8, 5, 5, 5], [7, 5, 5, 5, 5])
    return min([*known, *bigger], key=lambda levels: abs(int(torch.tensor(levels).prod()) - codebook_size))


def build_quantiser(config: QuantiserConfig, dim: int) -> nn.Module:
    """The quantiser of `config` for latents of `dim` dimensions; its forward maps [B, tokens, dim] to `Quantised`."""
    if not config.discrete:
        return ContinuousQuantiser(config, dim)
    inner: nn.Module = (
        NoiseSubstitutionQuantiser(config, dim) if config.kind == "nsvq" else LibraryQuantiser(config, dim)
    )
    return CompandedQuantiser(inner, dim) if config.compand else inner


class NoiseSubstitutionQuantiser(nn.Module):
    """NSVQ (Vali and Backstrom, IEEE Access 2022): the quantisation error is replaced by noise of the same length.

    In training, quantized = z + |z - c| * n / |n| with n ~ N(0, I): gradients reach both encoder and code book without a
    straight-through estimator or a commitment loss. In evaluation, quantized = c.
    """

    codebook: Tensor
    usage: Tensor

    def __init__(self, config: QuantiserConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.codebook = nn.Parameter(torch.randn(config.codebook_size, dim))
        self.register_buffer("usage", torch.full((config.codebook_size,), 1 / config.codebook_size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantised:
        flat = z.float().flatten(0, -2)
        if self.training and not self.started:
            self._start(flat.detach())
        codes = torch.cdist(flat, self.codebook).argmin(-1)
        chosen = self.codebook[codes]
        if self.training:
            self._renew(flat.detach(), codes)
            noise = torch.randn_like(flat)
            unit = noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-6)
            # the small floor keeps the norm's gradient finite where an encoding sits on its code
            quantized = flat + (flat - chosen).pow(2).sum(-1, keepdim=True).add(1e-8).sqrt() * unit
        else:
            quantized = chosen
        return Quantised(quantized.view_as(z), codes.view(z.shape[:-1]), flat.new_zeros(()))

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        """The first codes are encodings, so that none starts out of reach."""
        self.codebook.copy_(random_encodings(flat, self.config.codebook_size))
        self.started.fill_(True)  # type: ignore[operator]

    @torch.no_grad()
    def _renew(self, flat: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=self.config.codebook_size).float()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        self.usage.lerp_(counts / counts.sum(), 1 - self.config.decay)
        dead = self.usage < self.config.expire_below / self.config.codebook_size
        if dead.any():
            self.codebook[dead] = random_encodings(flat, int(dead.sum()))
            self.usage[dead] = 1 / self.config.codebook_size


class CompandedQuantiser(nn.Module):
    """`inner` sees u = (z - mean) / scale with its length r compressed to log(1 + r); what it returns is expanded again.

    mean and scale are running statistics of the training latents.
    """

    mean: Tensor
    scale: Tensor
    started: Tensor

    def __init__(self, inner: nn.Module, dim: int, *, momentum: float = 0.02) -> None:
        super().__init__()
        self.inner = inner
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

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
        flat = z.flatten(0, -2)
        mean, scale = flat.mean(0), flat.std(0).mean().clamp_min(1e-6)
        if dist.is_available() and dist.is_initialized():
            for value in (mean, scale):
                dist.all_reduce(value, op=dist.ReduceOp.SUM)
                value /= dist.get_world_size()
        share = self.momentum if self.started else 1.0
        self.mean.lerp_(mean, share)
        self.scale.lerp_(scale, share)
        self.started.fill_(True)


@torch.no_grad()
def random_encodings(flat: Tensor, count: int) -> Tensor:
    """`count` of the encodings [M, dim] at random, without repeats where there are enough; rank 0's on every rank."""
    if len(flat) >= count:
        chosen = flat[torch.randperm(len(flat), device=flat.device)[:count]].clone()
    else:
        chosen = flat[torch.randint(len(flat), (count,), device=flat.device)]
        chosen = chosen + 0.01 * flat.std() * torch.randn_like(chosen)  # too few to be distinct: never exact copies
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(chosen, 0)
    return chosen


class LibraryQuantiser(nn.Module):
    """VQ, residual VQ and FSQ of vector-quantize-pytorch, with dead-code expiry switched on (it is off by default)."""

    def __init__(self, config: QuantiserConfig, dim: int) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

        self.config = config
        # ranks must agree on the codes; the library only knows how when a process group is up
        together = dist.is_available() and dist.is_initialized()
        # the library counts a code's running hits per batch: the threshold in hits is set at the first batch
        common = {
            "dim": dim,
            "codebook_size": config.codebook_size,
            "decay": config.decay,
            "commitment_weight": config.commitment,
            "kmeans_init": True,
            "kmeans_iters": 10,
            "threshold_ema_dead_code": 1,
            "sync_codebook": together,
        }
        self.net: nn.Module
        if config.kind == "vq":
            self.net = VectorQuantize(**common)
        elif config.kind == "rvq":
            self.net = ResidualVQ(num_quantizers=config.levels, **common)
        else:
            self.net = FSQ(levels=fsq_levels(config.codebook_size), dim=dim)

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        if self.training:
            self._set_threshold(z.shape[0] * z.shape[1])
        with torch.autocast(z.device.type, enabled=False):  # distances in bf16 choose wrong codes
            if self.config.kind == "fsq":
                quantized, codes = self.net(z)
                loss = z.new_zeros(())
            else:
                quantized, codes, loss = self.net(z)
        return Quantised(quantized, codes.long().flatten(1), loss.sum())

    def _set_threshold(self, encodings: int) -> None:
        fair = encodings / self.config.codebook_size
        for module in self.net.modules():
            if hasattr(module, "reset_cluster_size"):  # the library's code books
                module.threshold_ema_dead_code = self.config.expire_below * fair  # type: ignore[assignment]
                module.reset_cluster_size = fair  # type: ignore[assignment]


class ContinuousQuantiser(nn.Module):
    """No codes: kl draws the latent from N(mean, sigma) and pulls it to N(0, I) (AdaWorld); none passes it on."""

    def __init__(self, config: QuantiserConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.to_log_variance = nn.Linear(dim, dim) if config.kind == "kl" else None

    def forward(self, z: Tensor) -> Quantised:
        z = z.float()
        if self.to_log_variance is None:
            return Quantised(z, None, z.new_zeros(()))
        log_variance = self.to_log_variance(z).float().clamp(-20, 10)
        divergence = 0.5 * (z.pow(2) + log_variance.exp() - log_variance - 1).sum(-1).mean()
        drawn = z + torch.randn_like(z) * (0.5 * log_variance).exp() if self.training else z
        return Quantised(drawn, None, self.config.kl_weight * divergence)


class TwoStageQuantiser(nn.Module):
    """UniVLA's second stage: the first half of the tokens keeps stage 1's frozen code book (what the text does not
    explain), the second half learns task-centric codes of its own. Codes of the second half are counted from 0 again."""

    def __init__(self, config: QuantiserConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.frozen = build_quantiser(config, dim).requires_grad_(False)
        self.task = build_quantiser(config, dim)

    def train(self, mode: bool = True) -> TwoStageQuantiser:
        super().train(mode)
        self.frozen.eval()  # in training mode its running means would move
        return self

    def forward(self, z: Tensor) -> Quantised:
        old, new = (part(half) for part, half in zip((self.frozen, self.task), z.chunk(2, dim=1), strict=True))
        codes = None if old.codes is None else torch.cat([old.codes, new.codes], 1)
        return Quantised(torch.cat([old.quantized, new.quantized], 1), codes, new.loss)
