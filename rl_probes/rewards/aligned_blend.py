"""The task's own reward blended with designed ones, by weights that learn which of them help (BARFI, 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


def policy_gradients(log_probability: Tensor, advantages: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """The policy gradient under each of several rewards, (n P): of the mean over samples of log pi * advantage.

    Args:
        log_probability: (N) of the actions taken, with their graph.
        advantages: (n N), under one reward each: returns to go, less a baseline that does not depend on the action.
        parameters: the policy's, P numbers in all.

    Raises:
        ValueError: shapes that do not fit.
    """
    if advantages.ndim != 2 or log_probability.shape != advantages.shape[1:]:
        raise ValueError(f"advantages must be (n, N) for log-probabilities (N), got {tuple(advantages.shape)} and "
                         f"{tuple(log_probability.shape)}.")  # fmt: skip
    wanted = list(parameters)
    rows = [
        torch.autograd.grad((log_probability * advantage).mean(), wanted, retain_graph=True, materialize_grads=True)
        for advantage in advantages
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


class AlignedBlend(ComposedPredictor):
    """weights_0 * r_task + sum over i of weights_i * r_i: the environment's reward and designed ones, in their order.

    The policy is trained on the blend; `align` moves the weights up the return of the task alone. The gradient of a
    policy step is linear in the weights, theta' = theta + eta * sum over i of weights_i * g_i, so the derivative of
    the task's return J after that step is dJ(theta') / dweights_i = eta * <grad J(theta'), g_i(theta)>, exactly. A
    reward gains weight if learning from it also serves the task, and falls below zero if it goes against the task.

    This is the derivative through one step of learning. The source differentiates through the policy at convergence
    (implicitly, with an approximated inverse Hessian) and may let weights depend on the state and learn the discount;
    we know its estimator second-hand only and do not claim to match it.

    Potentials and other predictors of single states are read at s'. Extras: "components" (1+n B), unweighted.

    Raises:
        ValueError: weights that are not finite, or not one more than there are designed rewards.
    """

    kind = "reward"
    state_dependence = "transition"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, parts: Sequence[RewardPredictor], weights: Sequence[float]) -> None:
        super().__init__(*parts)
        if len(weights) != 1 + len(parts) or not torch.tensor(weights).isfinite().all():
            raise ValueError(f"the task and {len(parts)} designed rewards need {1 + len(parts)} finite weights, got "
                             f"{list(weights)}.")  # fmt: skip
        self.requires |= {"rewards"}
        if any(part.state_dependence == "state" for part in parts):
            self.requires |= {"next_slots"}
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        self._steps: list[Tensor] | None = None  # components (1+n B) of the steps kept so far; None: none are kept
        self._paid: tuple[Tensor, Tensor] | None = None  # the slots last asked about, and their components (1+n B)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.rewards is not None
        designed = [part(self.read_by(part, transition)).reward for part in self.components()]
        components = torch.stack([transition.rewards.float(), *designed])  # (1+n B)
        if self._steps is not None:
            self._paid = (transition.slots, components)
        return RewardOutput(reward=self.weights @ components, extras={"components": components})

    def keep(self) -> None:
        """From now on keep the components of every transition observed, for `taken`."""
        self._steps = []

    def taken(self) -> Tensor:
        """The components (T 1+n B) of the T transitions observed since they are kept or were last taken.

        Raises:
            ValueError: none were.
        """
        if not self._steps:
            raise ValueError("the blend has kept no transition; call keep() before it observes any.")
        steps, self._steps = torch.stack(self._steps), []
        return steps

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        if self._steps is not None:
            if self._paid is None or self._paid[0] is not transition.slots:  # not what was asked about last
                self(transition)
            assert self._paid is not None
            self._steps.append(self._paid[1])
            self._paid = None
        return super().observe(transition)

    @torch.no_grad()
    def align(self, gradients: Tensor, task_gradient: Tensor, rate: float) -> dict[str, float]:
        """Move the weights by `rate` (the eta above is part of it) along the alignment of the gradients.

        Args:
            gradients: (1+n P) of the components, from the samples that the policy has just been trained on.
            task_gradient: (P) of the task's reward, from fresh samples of the policy after that step. From the same
                samples the noise of the two would correlate, and any reward that is sampled there would look aligned.
            rate: step size.

        Raises:
            ValueError: shapes that do not fit, or a gradient that is not finite.
        """
        if gradients.ndim != 2 or len(gradients) != len(self.weights) or task_gradient.shape != gradients.shape[1:]:
            raise ValueError(f"gradients must be ({len(self.weights)}, P) and the task's (P), got "
                             f"{tuple(gradients.shape)} and {tuple(task_gradient.shape)}.")  # fmt: skip
        step = rate * (gradients @ task_gradient)
        if not step.isfinite().all():
            raise ValueError("a policy gradient holds NaN or infinity, the weights would be lost.")
        self.weights += step.to(self.weights)
        return {f"blend_weight_{i}": weight for i, weight in enumerate(self.weights.tolist())}
