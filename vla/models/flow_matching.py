"""Flow matching of action chunks: times, interpolation, the masked loss and the Euler sampler.

Notation of GR00T N1 (2503.14734, equation 1) with noise e, actions a and time t in [0, 1]:

    x_t = (1 - t) e + t a          the noised chunk
    u   = a - e                    its velocity, what the network predicts
    x_{t + dt} = x_t + dt v(x_t, t)  from t = 0 (noise) to t = 1 (action)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flare import ranks
from vla.models.config import FlowConfig

TIME_SCALE = 0.999
"""s of both published forms; it keeps t off its far end."""


def sample_time(samples: int, config: FlowConfig) -> Tensor:
    """float32 [B K] for B samples, each in [0, 1)."""
    beta = _sample_beta(samples, config).flatten()
    time = (TIME_SCALE - beta) / TIME_SCALE if config.time == "n1" else (1 - beta) * TIME_SCALE
    return time.clamp(0.0, TIME_SCALE)  # the N1 form falls to -0.001 where b is nearly 1


def sample_start(shape: torch.Size, config: FlowConfig) -> tuple[Tensor, Tensor]:
    """Noise float32 [B K, H, D] and times [B K] of the K = `config.draws` draws of B samples, neighbours in `shape`.

    With several draws the first `middle` x K of each sample's have zero noise, else each with that probability.
    """
    samples, draws = shape[0] // config.draws, config.draws
    noise, time = ranks.normal(samples, draws, *shape[1:]).flatten(0, 1), sample_time(samples, config)
    if config.middle:
        if draws > 1:
            zero = torch.arange(shape[0]) % draws < round(config.middle * draws)
        else:
            zero = ranks.uniform(samples) < config.middle
        noise[zero], time[zero] = 0.0, 0.0
    return noise, time


def _sample_beta(samples: int, config: FlowConfig) -> Tensor:
    """[B, K]."""
    alpha, beta = config.alpha, config.beta
    if beta == 1.0:  # the distribution function is b^alpha
        return ranks.uniform(samples, config.draws).pow(1 / alpha)
    if alpha == 1.0:
        return 1 - ranks.uniform(samples, config.draws).pow(1 / beta)
    one, other = (ranks.gamma(shape, samples, config.draws) for shape in (alpha, beta))
    return one / (one + other)


def bucket(time: Tensor, config: FlowConfig) -> Tensor:
    """int64, how the network reads the time."""
    return (time * config.buckets).long().clamp(0, config.buckets - 1)


def noised(action: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and the velocity u, both [B, H, D], for times [B]."""
    t = time.view(-1, *[1] * (action.ndim - 1)).to(action.dtype)
    return (1 - t) * noise + t * action, action - noise


def flow_loss_per_sample(predicted: Tensor, velocity: Tensor, mask: Tensor) -> Tensor:
    """float [B]: mean square error of the velocity over the known entries of each sample; exactly 0, with zero (finite)
    gradients, where none is known. What stands under the mask does not matter, NaN and infinity included."""
    # masked before the square: the square of infinity has no gradient that could be masked afterwards
    error = (predicted - velocity).masked_fill(~mask, 0).pow(2)
    return error.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrates from noise [B, H, D] at t = 0 to actions at t = 1; `velocity(x, t [B])` is called `steps` times."""
    if steps < 1:
        raise ValueError(f"steps {steps}: must be at least 1")
    x = noise
    for step in range(steps):
        time = torch.full((len(x),), step / steps, device=x.device)
        x = x + velocity(x, time) / steps
    return x
