"""Progress heads: how much of the task is done, regressed from the slots of one state."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from rl_probes.rewards.set_embedding import SetEmbedding, SetTransformer
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class ProgressHead(SlotHead):
    """A potential in (0, 1): the logistic function of a score of the standardised slots of s."""

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    @abstractmethod
    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        """Standardised slots (B K D), zero where not valid (B K) -> (B)."""

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        slots = self.standardised(transition.slots, transition.valid)
        progress = torch.sigmoid(self.score(slots, transition.valid))
        return RewardOutput(reward=progress, progress=progress)


class DeepSetProgress(ProgressHead):
    """rho(max_k h_k, mean_k h_k) with h_k = phi(s_k, max_j psi(s_j)) over valid slots.

    One permutation-equivariant layer and an invariant one (Zaheer et al., 2017, section 3). Progress is mostly a
    relation between two objects, such as the distance of the agent to its target: with the context max_j psi(s_j) each
    slot can hold itself against the others, where pooling alone would have to carry both objects' places through one
    vector. On oracle slots of Object Goal that about halves the distance to the true progress.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.embedding = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        score: Tensor = self.rho(self.embedding(slots, valid))
        return score.squeeze(1)


class TransformerProgress(ProgressHead):
    """A transformer over the slots, read at a class token: every slot sees every other, several times where there are
    several layers.

    Raises:
        ValueError: a width that the heads cannot share.
    """

    def __init__(self, dim: int, width: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__(dim=dim, width=width, heads=heads, layers=layers)
        if min(heads, layers) < 1 or width % heads:
            raise ValueError(f"{heads} heads must share the width evenly over at least one layer, got width {width} "
                             f"and {layers} layers.")  # fmt: skip
        self.embedding = SetTransformer(dim, width, heads, layers)
        self.rho = nn.Linear(width, 1)

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        score: Tensor = self.rho(self.embedding(slots, valid))
        return score.squeeze(1)


class FlattenedProgress(ProgressHead):
    """An MLP on the slots in the order they come, the control that ignores that slots are a set.

    It breaks the contract of `RewardPredictor` on purpose: the order of slots changes its answer.
    """

    def __init__(self, dim: int, num_slots: int, width: int = 128) -> None:
        super().__init__(dim=dim, num_slots=num_slots, width=width)
        self.layers = nn.Sequential(
            nn.Linear(num_slots * (dim + 1), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        if slots.shape[1] != self.hyperparameters["num_slots"]:
            raise ValueError(f"this head reads {self.hyperparameters['num_slots']} slots, got {slots.shape[1]}.")
        score: Tensor = self.layers(torch.cat([slots, valid[..., None].float()], dim=2).flatten(1))
        return score.squeeze(1)


class PooledProgress(ProgressHead):
    """An MLP on the mean of the valid slots, the control that sees one global feature instead of objects."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.layers = nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        mean = slots.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)  # slots are zero where not valid
        score: Tensor = self.layers(mean)
        return score.squeeze(1)
