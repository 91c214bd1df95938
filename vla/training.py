"""Training of a policy as a Lightning module: flow matching and FLARE, average weights, schedule, held-out losses."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import lightning
import torch
from torch import Tensor

from flare import ranks
from flare.action_aware import ActionAwareTraining
from flare.collapse import CollapseAlarm, CollapseMonitor
from flare.objective import AlignmentHead, alignment_loss, mean_alignment
from flare.slow_copy import SlowCopy
from flare.targets import TargetEncoder
from vla.batch import PolicyBatch, newest_features
from vla.first_stage import FirstStage
from vla.policy import Policy, PolicyLoss
from vla.sharding import blocks, gathered, outline, shard_blocks, shard_root
from vla.training_config import PolicyTrainingConfig

log = logging.getLogger(__name__)


class PolicyTraining(lightning.LightningModule):
    """Loss = action loss over the samples with actions + coefficient x alignment, or the picture's loss, over the samples with a
    future."""

    def __init__(
        self,
        policy: Policy,
        training: PolicyTrainingConfig,
        *,
        seed: int = 0,
        dataset_names: Sequence[str] = (),
        target: TargetEncoder | None = None,
    ) -> None:
        """`dataset_names`: what held-out losses are reported for; `target`: FLARE's target encoder, where wanted."""
        super().__init__()
        self.policy = policy
        self.training_config = training
        self.seed = seed
        self.dataset_names = list(dataset_names)
        self.target = target
        self.head: AlignmentHead | None = None
        if target is not None:
            width = policy.future_width
            self.head = AlignmentHead(width, target.dim, tokens=target.tokens, hidden=training.alignment.hidden)
        # the policy alone: the alignment's head is not saved, and is validated as it is
        self.average = SlowCopy(policy, training.ema, warm_up=True) if training.ema else None
        self.monitor = CollapseMonitor()
        self._number = 0
        self._held_out: dict[str, list[float]] = defaultdict(list)
        self._outline: list[Policy] = []  # no part of this module

    def configure_model(self) -> None:
        """In shards, where the strategy has a mesh for them."""
        if self.device_mesh is None or self._outline:
            return
        mesh = self.device_mesh["data_parallel"]
        self._outline.append(cast(Policy, outline(self.policy)))
        if self.average is not None:
            shard_blocks(self.average.module, mesh)
            shard_root(self.average.module, mesh, "loss")
        shard_blocks(self.policy, mesh)
        shard_root(self, mesh, "training_step", "validation_step", ignored=self.target)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step number `step`."""
        training = self.training_config
        return training.lr * schedule(min(1.0, step / training.steps), training.warmup_share)

    def averaged(self) -> Policy:
        """The policy that is evaluated and saved."""
        if self.average is None:
            return self.policy
        averaged = cast(Policy, self.average.module)
        averaged.embodiments, averaged.measured = self.policy.embodiments, self.policy.measured
        return averaged

    def saved(self) -> Policy:
        """`averaged`, whole on the first process where it is in shards; all must call it."""
        averaged = self.averaged()
        if not self._outline:
            return averaged
        weights = gathered(averaged.state_dict())
        (whole,) = self._outline
        if ranks.rank() == 0:
            whole.load_state_dict(weights, assign=True)
        return whole

    @property
    def compiled(self) -> list[torch.nn.Module]:
        """What --training.compile compiles: blocks, of which one is compiled for all that are alike; not those of the average."""
        every = list(blocks(self.policy))
        within = {id(part) for block in every for part in block.modules() if part is not block}
        return [block for block in every if id(block) not in within]

    def losses(self, policy: Policy, batch: PolicyBatch) -> tuple[dict[str, Tensor], PolicyLoss]:
        """Parts of the loss, each a scalar."""
        output: PolicyLoss = policy.loss(batch)
        known = output.has_action.float()
        parts = {"action": (output.action_loss * known).sum() / ranks.counted(known.sum())}
        if output.picture is not None:
            seen = output.picture
            parts["picture"] = seen.weight * mean_alignment(seen.loss, seen.has_future, batch.get("align"))
        if self.target is not None:
            predicted, target, has_future, mask = self._aligned(output, batch)
            loss = alignment_loss(predicted, target, has_future, token_mask=mask)
            align = batch.get("align")
            weight = None if align is None else align.repeat_interleave(len(loss) // len(align), 0)
            parts["alignment"] = self.training_config.alignment.coefficient * mean_alignment(
                loss, has_future & mask.any(1), weight
            )
            learner = self.target.learner()
            if learner is not None:
                parts["target"] = self._learning(learner, batch)
        return parts, output

    def _aligned(self, output: PolicyLoss, batch: PolicyBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions and targets [B K, M, D], bool [B K], bool [B K, M]."""
        assert self.target is not None and self.head is not None and output.future_states is not None
        seen = batch["image_mask"][:, :, -1]
        future = batch["future_features"] if self.target.reads_features else batch["future"]
        targets, mask = self.target.of_batch(future, batch["instruction"], batch["has_future"], image_mask=seen)
        if self.training_config.alignment.change:
            targets = targets - self._present(batch)
        draws = output.future_states.shape[1]
        predicted = self.head(output.future_states.flatten(0, 1))
        repeated = [value.repeat_interleave(draws, 0) for value in (targets, batch["has_future"], mask)]
        return predicted, repeated[0], repeated[1], repeated[2]

    def _present(self, batch: PolicyBatch) -> Tensor:
        """[B, M, D]: the target's embedding of what is seen now, or of what the future follows."""
        assert self.target is not None
        if not self.target.reads_features:
            shown = batch.get("before", batch["images"][:, :, -1])
        elif "before_features" in batch:
            shown = batch["before_features"]
        else:
            shown = newest_features(batch)
        seen = batch["image_mask"][:, :, -1]
        return self.target.of_batch(shown, batch["instruction"], batch["has_future"], image_mask=seen)[0]

    def _learning(self, learner: ActionAwareTraining, batch: PolicyBatch) -> Tensor:
        """The loss by which the target learns what matters to actions, of the present."""
        return learner(
            batch["images"][:, :, -1],
            batch["instruction"],
            batch["action"],
            batch["action_mask"],
            image_mask=batch["image_mask"][:, :, -1],
            state=batch["state"].masked_fill(~batch["state_mask"], 0.0),
            embodiment=batch["embodiment"],
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # what is drawn depends on the batch's number alone, so a resumed run repeats an uninterrupted one
        self._number = int(self.trainer.fit_loop.total_batch_idx)  # of the whole run, sessions before a resume included

    def training_step(self, batch: PolicyBatch, index: int) -> Tensor:
        with ranks.whole_batch(self.seed, self._number):
            parts, _ = self.losses(self.policy, batch)
        values = torch.stack(list(parts.values()))
        told = ranks.mean_over_ranks(values.detach())
        self.log_dict({f"train/{name}_loss": value for name, value in zip(parts, told, strict=True)})
        self.log("train/loss", told.sum())
        return values.sum()

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        super().optimizer_step(*arguments, **keywords)
        # here and not in on_train_batch_end, which is called after the checkpoint is written: what is resumed from it would
        # lack the averages' last step
        if self.average is not None:
            self.average.update_parameters(self.policy)
        if self.target is not None:
            self.target.update(self.policy.frame_encoder)

    def configure_optimizers(self) -> Any:
        training = self.training_config
        learner = self.target.learner() if self.target is not None else None
        online = [module for module in (self.policy, self.head, learner) if module is not None]
        decayed: list[torch.nn.Parameter] = []
        free: list[torch.nn.Parameter] = []
        for module in online:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    # decay would shrink the weights of robots that are not in the data
                    kept = parameter.ndim == 1 or name.startswith("embodiment_layers.")
                    (free if kept else decayed).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        # Lightning clips no gradients of a fused optimiser in mixed precision; a fused step is 6% of `small` on a CPU
        return torch.optim.AdamW(
            groups, lr=training.lr, betas=training.betas, fused=True if training.precision == "32-true" else None
        )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        rate = self.rate(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.log("train/lr", rate)

    # Validation: held-out episodes and videos only, by the averaged weights.

    def on_validation_epoch_start(self) -> None:
        self._held_out.clear()
        self.monitor.reset()
        self._generator_state = torch.get_rng_state()
        torch.manual_seed(self.seed)  # the same noise at every validation

    def validation_step(self, batch: PolicyBatch, index: int) -> None:
        policy = self.averaged().eval()
        parts, output = self.losses(policy, batch)
        for number, loss, has in zip(
            batch["dataset"].tolist(), output.action_loss.tolist(), output.has_action.tolist(), strict=True
        ):
            if has:
                self._held_out[f"action_loss/{self.dataset_names[number]}"].append(loss)
        for name, values in policy.measure(batch).items():
            for number, value in zip(batch["dataset"].tolist(), values.tolist(), strict=True):
                if not math.isnan(value):
                    self._held_out[f"{name}/{self.dataset_names[number]}"].append(value)
        if self.target is not None and bool(batch["has_future"].any()):
            predicted, target, has_future, _ = self._aligned(output, batch)
            # where the change is aligned with, "nothing changes" is what a present that goes on would say
            still = self.training_config.alignment.change
            present = torch.zeros_like(target) if still else self._present(batch)
            self.monitor.add(predicted.float(), target, has_future, present=present)
        if "target" in parts and bool(output.has_action.any()):
            self._held_out["flare/target_loss"].append(float(parts["target"]))

    def on_validation_epoch_end(self) -> None:
        torch.set_rng_state(self._generator_state)
        for name, losses in self._held_out.items():
            self.log(f"val/{name}", sum(losses) / len(losses), sync_dist=True)
        if self.target is None:
            return
        report = self.monitor.report()
        if report is None:
            return
        for name, value in report.scalars().items():
            self.log(f"val/flare/{name}", value)
        for reason in CollapseAlarm().reasons(report):
            log.warning("FLARE: %s", reason)


class FirstStageTraining(lightning.LightningModule):
    """Of what a policy trains before the rest."""

    def __init__(self, stage: FirstStage, training: PolicyTrainingConfig, *, seed: int) -> None:
        super().__init__()
        self.stage = stage
        self.training_config, self.seed = training, seed
        self._number = 0
        self._held_out: dict[str, list[float]] = defaultdict(list)
        self.compiled: tuple[torch.nn.Module, ...] = ()

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step number `step`."""
        return self.training_config.lr * schedule(min(1.0, step / self.training_config.steps), 0.05)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._number = int(self.trainer.fit_loop.total_batch_idx)

    def training_step(self, batch: PolicyBatch, index: int) -> Tensor:
        with ranks.whole_batch(self.seed, self._number):
            loss = self.stage.loss(batch)
        self.log("train/loss", ranks.mean_over_ranks(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.training_config.lr, weight_decay=0.0)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate(self.global_step)

    def on_validation_epoch_start(self) -> None:
        self._held_out.clear()

    def validation_step(self, batch: PolicyBatch, index: int) -> None:
        for name, value in self.stage.measure(batch).items():
            self._held_out[name].append(float(value))

    def on_validation_epoch_end(self) -> None:
        for name, values in self._held_out.items():
            self.log(name, sum(values) / len(values), sync_dist=True)


def schedule(progress: float, warmup_share: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: linear warm-up, then cosine to 2%."""
    warm = min(1.0, (progress + 1e-3) / warmup_share) if warmup_share else 1.0
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def halve_frozen(policy: Policy) -> None:
    """Weights that take no gradients, to bfloat16; buffers stay (a rotary frequency in bfloat16 is another one)."""
    for parameter in policy.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16()
