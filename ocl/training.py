"""Training with Lightning: what every run shares, then losses, metrics and optimiser of object-centric models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from ocl.hooks import AfterStep, ReadsModel
from ocl.metrics.segmentation import SegmentationMetrics
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch, Output, frames_as_float
from ocl.starting_weights import take_weights

VALIDATION_SEED = 2**31 - 1


class RepeatableTraining(LightningModule, ABC):
    """Steps that are a function of their number, and runs that end when their loss is no number.

    Every training step reseeds torch from (seed, step, process), so that random starts, masks and dropout are a
    function of the step alone: a resumed run continues bit for bit and no generator state needs saving. Validation
    draws from one fixed seed: figures of different steps differ by the weights only.

    Args:
        schedule: optimiser step -> factor on the learning rate (`ocl.schedules`).
        seed: of the random draws in training.
    """

    def __init__(self, schedule: Callable[[int], float], seed: int) -> None:
        super().__init__()
        self.schedule, self.seed = schedule, seed

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.seed + 7919 * self.global_step + 104_729 * self.global_rank)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, AfterStep):
                module.after_step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Every `log_every_n_steps`, when the host waits for the figures anyway.

        Raises:
            ValueError: the loss is NaN or infinite, which no later step mends.
        """
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = float(outputs["loss"])
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} at step {self.global_step}; look for images that are not finite, lower "
                    "model.learning_rate or clip gradients (trainer.gradient_clip_val), and start in another folder."
                )

    def on_validation_epoch_start(self) -> None:
        self._evaluation_state = torch.get_rng_state()
        torch.manual_seed(VALIDATION_SEED)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        torch.set_rng_state(self._evaluation_state)

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    on_test_epoch_end = on_validation_epoch_end

    @abstractmethod
    def _evaluate(self, batch: Batch, split: str) -> None:
        """Log the figures of a batch under "split/name"."""

    def _log_means(self, values: Mapping[str, Tensor], count: int) -> None:
        """Means of a batch of `count` images -> means over all images of the epoch, of all processes together."""
        # A fraction, since Lightning averages the counts of processes and would round whole numbers.
        weight: Any = float(count)
        self.log_dict(values, on_epoch=True, on_step=False, batch_size=weight, sync_dist=True)

    def _stepwise(
        self, optimizer: torch.optim.Optimizer, schedules: list[Callable[[int], float]] | None = None
    ) -> dict[str, Any]:
        """The optimiser with its rates scheduled by steps, as Lightning reads it; `schedules`: one per group.

        Raises:
            ValueError: a rate that is negative or no number.
        """
        wrong = [group["lr"] for group in optimizer.param_groups if not 0 <= group["lr"] < math.inf]
        if wrong:  # torch looks at the rate of all groups together only
            raise ValueError(f"learning rates must be finite and not negative, got {wrong[0]}.")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules or self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@dataclass(frozen=True)
class Rate:
    """How fast a part of the model is trained.

    learning_rate: of that part.
    schedule:      optimiser step -> factor on it; None: that of the training.
    """

    learning_rate: float
    schedule: Callable[[int], float] | None = None


class ObjectCentricTraining(RepeatableTraining):
    """Minimise a weighted sum of losses with Adam; validate with segmentation metrics on decoder masks.

    Weak labels of a batch (`Batch.hints`) reach the model in validation too, so starts that are conditioned on them are
    validated with them; frozen models never are.

    Args:
        model: the model to train.
        losses: name -> (`Output`, `Batch`) -> scalar.
        schedule: optimiser step -> factor on the learning rate (`ocl.schedules`).
        weights: name -> factor; 1 where absent.
        learning_rate, weight_decay: of AdamW (plain Adam at the default weight decay of 0).
        seed: of the random draws in training.
        rates: part of the model, such as "encoder" or "encoder.autoencoder" -> its own `Rate`; of two that hold a
            weight the inner counts, `learning_rate` where none does.
        start_from: folder of a checkpoint that the trained weights are taken from at the start, positions of another
            grid interpolated (`ocl.starting_weights`): a second stage, at another resolution.

    Raises:
        ValueError: no loss; weights or rates of what is not there; see `ocl.starting_weights.take_weights`.
    """

    def __init__(
        self,
        model: ObjectCentricModel,
        losses: dict[str, nn.Module],
        schedule: Callable[[int], float],
        weights: dict[str, float] | None = None,
        learning_rate: float = 4e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
        rates: dict[str, Rate] | None = None,
        start_from: Path | None = None,
    ) -> None:
        super().__init__(schedule, seed)
        if not losses:
            raise ValueError("training needs at least one loss.")
        unknown = sorted(set(weights or {}) - set(losses))
        if unknown:
            raise ValueError(f"weights name {unknown}, which are not among the losses {sorted(losses)}.")
        self.model = model
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in losses}
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.rates = rates or {}
        for part in self.rates:
            if not any(_inside(name, part) and one.requires_grad for name, one in model.named_parameters()):
                raise ValueError(f"rates name {part!r}, which is no part of the model that is trained.")
        if start_from is not None:
            take_weights(model, start_from)
        self.metrics = SegmentationMetrics()
        for loss in losses.values():
            if isinstance(loss, ReadsModel):
                loss.attach(model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch.images = frames_as_float(batch.images)
        total, terms = self._losses(self.model(batch.images, hints=batch.hints), batch)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=len(batch))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        super().on_test_epoch_end()

    def configure_optimizers(self) -> Any:
        groups: dict[str | None, dict[str, Any]] = {
            part: {"params": [], "lr": self.rates[part].learning_rate if part else self.learning_rate}
            for part in (None, *self.rates)
        }
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[self._part(name)]["params"].append(parameter)
        groups = {part: group for part, group in groups.items() if group["params"]}
        own = [self.rates[part].schedule if part else None for part in groups]
        optimizer = torch.optim.AdamW(list(groups.values()), weight_decay=self.weight_decay)
        return self._stepwise(optimizer, [schedule or self.schedule for schedule in own])

    def _part(self, name: str) -> str | None:
        """Which of `rates` counts for the parameter of this name."""
        return max((part for part in self.rates if _inside(name, f"model.{part}")), key=len, default=None)

    def _losses(self, output: Output, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        terms = {name: loss(output, batch) for name, loss in self.losses.items()}
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return total, terms

    def _evaluate(self, batch: Batch, split: str) -> None:
        batch.images = frames_as_float(batch.images)
        output = self.model(batch.images, hints=batch.hints)
        total, terms = self._losses(output, batch)
        values = {f"{split}/{name}": term for name, term in terms.items()} | {f"{split}/loss": total}
        self._log_means(values, len(batch))
        if batch.segmentation is not None:
            self.metrics.update(output.decoded.masks, batch.segmentation)

    def _log_metrics(self, split: str) -> None:
        if self.metrics.update_count:
            self.log_dict({f"{split}/{name}": value for name, value in self.metrics.compute().items()})
            self.metrics.reset()


def _inside(name: str, part: str) -> bool:
    """Whether the parameter of this name is `part` or one of it."""
    return f"{name}.".startswith(f"{part}.")
