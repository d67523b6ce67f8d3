"""A reward predictor as a plain function on numpy arrays, for vectorised environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots
from rl_probes.rewards.memory import remember, remembered
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import SlotTransition


class RewardFunction:
    """(s, s', and what happened between) -> (B,) float32 rewards, without gradients. Made by `as_reward_fn`."""

    def __init__(
        self, predictor: RewardPredictor, encoder: ObjectEncoder, goal: Slots | None, goal_weight: Tensor | None
    ) -> None:
        self.predictor, self.encoder = predictor.eval(), encoder
        self.goal, self.goal_weight = goal, goal_weight

    @torch.no_grad()
    def __call__(
        self,
        frames: Batch | Slots,
        next_frames: Batch | Slots,
        /,
        actions: NDArray[Any] | None = None,
        rewards: NDArray[Any] | None = None,
        terminated: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Frames, which the encoder turns into slots, or the slots themselves where it already has; actions, rewards
        and terminated (B,) as the environment gave them. `next_frames` must be the frames that the actions led to: the
        terminal ones, not the first of the next episode. A predictor of single states is read at s'. Then the predictor
        observes the transitions; call `reset` where an episode is over.

        Raises:
            ValueError: the predictor requires something that is not given, or a valid slot is not finite.
        """
        now, then = self._slots(frames), self._slots(next_frames)
        count, device = len(now.vectors), now.vectors.device
        goal = self.goal
        transition = SlotTransition(
            slots=now.vectors,
            valid=now.valid,
            next_slots=then.vectors,
            next_valid=then.valid,
            goal_slots=None if goal is None else goal.vectors.expand(count, -1, -1),
            goal_valid=None if goal is None else goal.valid.expand(count, -1),
            goal_weight=None if self.goal_weight is None else self.goal_weight.expand(count, -1),
            actions=None if actions is None else torch.as_tensor(actions, device=device),
            rewards=None if rewards is None else torch.as_tensor(rewards, device=device),
            terminated=None if terminated is None else torch.as_tensor(terminated, device=device),
        )
        if self.predictor.state_dependence == "state":
            transition = transition.advanced()
        with torch.inference_mode():  # cheaper than without gradients alone; learning is for `observe`
            reward: Tensor = self.predictor(transition).reward
        self.predictor.observe(transition)
        return reward.cpu().numpy()

    def reset(self, environments: NDArray[np.bool_] | None = None) -> None:
        """New episodes begin in these environments (B), in all where None."""
        self.predictor.reset(None if environments is None else torch.as_tensor(environments))

    def state(self) -> dict[str, Any]:
        """What the predictor has learnt and remembers, for `set_state` of one that was made alike."""
        return remembered(self.predictor)

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the state of another predictor."""
        remember(self.predictor, state)

    def _slots(self, frames: Batch | Slots) -> Slots:
        return frames if isinstance(frames, Slots) else self.encoder(frames)


def as_reward_fn(
    predictor: RewardPredictor,
    encoder: ObjectEncoder,
    goal: Slots | None = None,
    goal_weight: Tensor | None = None,
) -> RewardFunction:
    """The predictor on the frames of a vectorised environment, seen through `encoder`.

    goal: slots (1 G D) of one goal for all environments, or (B G D) of one each; goal_weight (1 G) or (B G). There is
        no default goal.

    Raises:
        ValueError: a head that was fitted on another encoder's slots, or a predictor that needs a goal and gets none.
    """
    for part in predictor.modules():
        if isinstance(part, SlotHead):
            part.check_encoder(encoder.fingerprint)
    if "goal_slots" in predictor.requires and goal is None:
        raise ValueError(f"{type(predictor).__name__} needs goal slots; encode a goal and pass it as `goal`.")
    if goal is not None and goal.vectors.shape[2] != encoder.dim:
        raise ValueError(f"the goal has slots of width {goal.vectors.shape[2]}, the encoder's have {encoder.dim}.")
    return RewardFunction(predictor, encoder, goal, goal_weight)
