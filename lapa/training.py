"""Training of the latent action model as a Lightning module: losses, schedule, health of the codes."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corpora.training_config import HIGHER
from flare import ranks
from lapa.codes import CodeCounter, effective_rank
from lapa.model.config import LamConfig
from lapa.model.lam import LatentActionModel
from lapa.pairs.batch import PairBatch, as_frames
from lapa.training_config import TrainingConfig

log = logging.getLogger(__name__)

PIXEL_SCALE = 100.0
"""Brings the mean square error of images in [0, 1] (about 0.01 for a copy) to the size of the other losses."""
LABEL_WEIGHT = 1.0
SHOWN = 8
"""Held-out pairs of a picture."""


class LamTraining(lightning.LightningModule):
    """Losses of LAPA and its relatives: target, flow, quantiser, few labels; the schedule; validation."""

    label_scale: Tensor

    def __init__(
        self,
        model: LatentActionModel,
        training: TrainingConfig,
        *,
        seed: int = 0,
        label_scale: Tensor | None = None,
        texts: Tensor | None = None,
        val_texts: Tensor | None = None,
    ) -> None:
        """`label_scale` [A]: deviation of each labelled dimension; `texts`, `val_texts` [clips, L, D]: text embedding
        of each training and each held-out clip."""
        super().__init__()
        config = model.config
        if config.quantised_share == 1 and not config.code_gradient and not model.quantiser.continuous:
            raise ValueError(
                "quantised_share 1 without code_gradient: the decoder then sees codes alone, through which nothing reaches the "
                "encoder; lower --model.quantised-share, or set --model.code-gradient"
            )
        self.model = model
        self.training_config = training
        self.seed = seed
        self.register_buffer(
            "label_scale", label_scale if label_scale is not None else torch.ones(max(1, model.config.label_dim))
        )
        self.texts, self.val_texts = texts, val_texts
        self.collapsed = False
        self._number = 0
        self._codes: list[Tensor] = []
        self._latents: list[Tensor] = []
        self._shown: Tensor | None = None

    @property
    def config(self) -> LamConfig:
        return self.model.config

    @property
    def compiled(self) -> tuple[torch.nn.Module, ...]:
        """What --training.compile compiles: all but the quantiser, whose choices are no such work."""
        return self.model.encoder, self.model.decoder

    def losses(self, batch: PairBatch) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Parts of the training loss (each a scalar), latents [B, tokens, dim], codes."""
        config = self.config
        valid = batch.valid
        texts = self.texts if self.training else self.val_texts
        text = None if texts is None or batch.clip is None else texts[batch.clip].to(batch.first.device)
        encoding = self.model.encode(batch, text=text)
        seen = encoding.quantized
        if not self.model.quantiser.continuous and config.quantised_share < 1 and self.training:
            coded = ranks.uniform(len(seen), 1, 1, device=seen.device) < config.quantised_share
            seen = torch.where(coded, seen, encoding.latent)
        elif not self.training and config.quantised_share < 1:
            seen = encoding.latent
        if config.latent_noise and self.training:
            seen = seen + config.latent_noise * ranks.normal(*seen.shape, device=seen.device)
        predicted = self.model.predict(batch.first, seen, valid, text=text, rest=encoding.rest)
        parts = {
            "target": target_loss(predicted.target.float(), batch.second, valid if config.pixels else None, config)
        }
        if not self.training and config.pixels and self._shown is None:
            self._shown = torch.stack([batch.first[:SHOWN], batch.second[:SHOWN], predicted.target[:SHOWN].float()])
        if predicted.flow is not None:
            assert batch.flow is not None
            parts["flow"] = config.flow_weight * flow_loss(predicted.flow.float(), batch.flow, valid)
        parts["quantiser"] = encoding.loss
        if config.latent_noise:
            # without a price on size, latents would grow until the noise no longer matters
            parts["size"] = 1e-2 * encoding.latent.pow(2).mean()
        if self.model.action_head is not None and batch.label is not None:
            parts["label"] = LABEL_WEIGHT * self._label_loss(encoding.latent, batch.label)
        return parts, encoding.latent, encoding.codes

    def _label_loss(self, latent: Tensor, label: Tensor) -> Tensor:
        assert self.model.action_head is not None
        known = torch.isfinite(label)
        wanted = torch.where(known, label / self.label_scale, torch.zeros_like(label))
        error = (self.model.action_head(latent.flatten(1)) - wanted).pow(2) * known
        return error.sum() / ranks.counted(known.sum())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # what is drawn depends on the batch's number alone, so a resumed run repeats an uninterrupted one
        self._number = int(self.trainer.fit_loop.total_batch_idx)  # of the whole run, sessions before a resume included

    def training_step(self, batch: PairBatch, index: int) -> Tensor:
        with ranks.whole_batch(self.seed, self._number):
            parts, latent, _ = self.losses(batch.floats())
        values = torch.stack(list(parts.values()))
        self._track_latents(latent)
        told = ranks.mean_over_ranks(values.detach())
        self.log_dict({f"train/{name}_loss": value for name, value in zip(parts, told, strict=True)})
        self.log("train/loss", told.sum())
        return values.sum()

    @torch.no_grad()
    def _track_latents(self, latent: Tensor) -> None:
        """Running mean and deviation, kept with the model for draws of random latents."""
        mean, deviation = ranks.moments(latent.detach().float())
        self.model.latent_mean.lerp_(mean, 0.02)
        self.model.latent_std.lerp_(deviation, 0.02)

    def configure_optimizers(self) -> Any:
        training = self.training_config
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=training.lr, betas=(0.9, 0.98), weight_decay=training.weight_decay)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step number `step`."""
        warm = min(1.0, (step + 1) / max(1, self.training_config.warmup_steps))
        progress = min(1.0, step / self.training_config.steps)
        cosine = 0.03 + 0.97 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
        return self.training_config.lr * warm * cosine

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        rate = self.rate(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.log("train/lr", rate)

    # Validation: held-out videos only.

    def on_validation_epoch_start(self) -> None:
        self._codes, self._latents, self._shown = [], [], None

    def validation_step(self, batch: PairBatch, index: int) -> None:
        batch = batch.floats()
        parts, latent, codes = self.losses(batch)
        self._latents.append(latent.flatten(1))
        if codes is not None:
            self._codes.append(codes)
        copy = target_loss(batch.first, batch.second, batch.valid if self.config.pixels else None, self.config)
        found = {"val/copy_loss": copy} | {
            f"val/{name}_loss": parts[name] for name in ("target", "flow") if name in parts
        }
        self.log_dict(found, batch_size=len(latent), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        rank = effective_rank(torch.cat(self._latents).float().cpu().numpy())
        self.log(f"val/effective_rank{HIGHER}", rank, sync_dist=True)
        if not self._codes:
            return
        counter = CodeCounter(self.model.quantiser.sizes)
        counter.add(torch.cat(self._codes).cpu().numpy())
        found = counter.summary()
        self.log(f"val/perplexity{HIGHER}", found.perplexity, prog_bar=True, sync_dist=True)
        self.log(f"val/rows_perplexity{HIGHER}", found.combinations.perplexity, sync_dist=True)
        self.collapsed = found.collapsed
        if self.collapsed and not self.trainer.sanity_checking:
            log.warning(
                "collapse alarm: perplexity %.1f of %d codes at the worst position, %.1f of whole rows, on held-out pairs; "
                "codes carry almost nothing. Try a smaller codebook, quantiser kind fsq, or a longer gap.",
                found.perplexity,
                found.size,
                found.combinations.perplexity,
            )

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Name -> [H, W, 3]: of the last validation's first pairs, in a column each, both frames and what was decoded. {} of a
        model that predicts features."""
        if self._shown is None:
            return {}
        rows = [np.concatenate(list(as_frames(images)), 1) for images in self._shown]
        return {"val/first_second_decoded": np.concatenate(rows)}


def target_loss(predicted: Tensor, wanted: Tensor, valid: Tensor | None, config: LamConfig) -> Tensor:
    """Mean square error over what is known: pixels times PIXEL_SCALE, features as they are."""
    error = (predicted - wanted).pow(2)
    scale = PIXEL_SCALE if config.pixels else 1.0
    if valid is None:
        return scale * error.mean()
    return scale * (error * valid).sum() / ranks.counted(valid.sum() * error.shape[1])


def flow_loss(predicted: Tensor, wanted: Tensor, valid: Tensor | None) -> Tensor:
    """Smooth L1 (per cent of the image), over what is known; robust to the outliers that measured flow has."""
    error = F.smooth_l1_loss(predicted, wanted, reduction="none")
    if valid is None:
        return error.mean()
    weight = F.interpolate(valid, size=error.shape[-2:], mode="area")
    return (error * weight).sum() / ranks.counted(weight.sum() * error.shape[1])
