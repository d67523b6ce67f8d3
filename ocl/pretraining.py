"""Training of vision transformers with Lightning: an objective, an optimiser and nothing about objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from ocl.hooks import AfterStep
from ocl.objectives.base import Objective
from ocl.shapes import Batch, images_as_float
from ocl.training import VALIDATION_SEED


class ViTPretraining(LightningModule):
    """Minimise an objective with AdamW; validate with the same objective on held-out images.

    Every step draws its masks and views from (seed, step, process) alone, validation from one fixed seed, as
    `ObjectCentricTraining` does: a resumed run continues bit for bit.

    Args:
        objective: holds the ViT.
        schedule: optimiser step -> factor on the learning rate (`ocl.schedules`).
        learning_rate: of AdamW.
        weight_decay: on matrices only; biases, norms and single tokens are never decayed.
        betas: of AdamW. The published masked autoencoders take (0.9, 0.95), DINO (0.9, 0.999).
        seed: of the random draws in training.
    """

    def __init__(
        self,
        objective: Objective,
        schedule: Callable[[int], float],
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.objective, self.schedule, self.seed = objective, schedule, seed
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, (betas[0], betas[1])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.seed + 7919 * self.global_step + 104_729 * self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self._terms(batch)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=len(batch))
        return terms["loss"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.objective, AfterStep):
            self.objective.after_step()

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

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if _is_matrix(parameter)]},
            {"params": [parameter for parameter in trained if not _is_matrix(parameter)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        batch.images = images_as_float(batch.images)
        expected, found = self.objective.vit.image_size, tuple(batch.images.shape[-2:])
        if found != expected:
            raise ValueError(f"the ViT is made for images of {expected}, the data set gives {found}; change either.")
        return self.objective(batch)  # type: ignore[no-any-return]

    def _evaluate(self, batch: Batch, split: str) -> None:
        values = {f"{split}/{name}": term for name, term in self._terms(batch).items()}
        self.log_dict(values, on_epoch=True, on_step=False, batch_size=len(batch), sync_dist=True)


def _is_matrix(parameter: Tensor) -> bool:
    return sum(side > 1 for side in parameter.shape) > 1
