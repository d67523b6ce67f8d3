"""Training of encoders with Lightning: an objective, an optimiser and nothing about objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ocl.objectives.base import Objective
from ocl.shapes import Batch, images_as_float
from ocl.training import RepeatableTraining


class Pretraining(RepeatableTraining):
    """Minimise an objective with AdamW; validate with the same objective on held-out images.

    Args:
        objective: holds the network.
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
        super().__init__(schedule, seed)
        self.objective = objective
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, (betas[0], betas[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self._terms(batch)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=len(batch))
        return terms["loss"]

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if _is_matrix(parameter)]},
            {"params": [parameter for parameter in trained if not _is_matrix(parameter)], "weight_decay": 0.0},
        ]
        return self._stepwise(
            torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)
        )

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        batch.images = images_as_float(batch.images)
        expected, found = self.objective.image_size, tuple(batch.images.shape[-2:])
        if found != expected:
            raise ValueError(
                f"the network is made for images of {expected}, the data set gives {found}; change either."
            )
        return self.objective(batch)  # type: ignore[no-any-return]

    def _evaluate(self, batch: Batch, split: str) -> None:
        values = {f"{split}/{name}": term for name, term in self._terms(batch).items()}
        self._log_means(values, len(batch))


def _is_matrix(parameter: Tensor) -> bool:
    return sum(side > 1 for side in parameter.shape) > 1
