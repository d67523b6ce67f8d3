"""Agents trained on predicted rewards, and what tells when they fool them."""

from rl_probes.closing_loop.blend import BlendedReward, BlendLearner
from rl_probes.closing_loop.hacking import Changes, HackingMonitor, HackingWarning
from rl_probes.closing_loop.predictors import AnyMovement, JudgedByProgress, OncePerState, WithBonus
from rl_probes.closing_loop.schemes import (
    GivenReward,
    NoveltyBonus,
    PredictedReward,
    RewardLearner,
    RewardScheme,
    ShapedReward,
)

__all__ = [
    "AnyMovement",
    "BlendLearner",
    "BlendedReward",
    "Changes",
    "GivenReward",
    "HackingMonitor",
    "HackingWarning",
    "JudgedByProgress",
    "NoveltyBonus",
    "OncePerState",
    "PredictedReward",
    "RewardLearner",
    "RewardScheme",
    "ShapedReward",
    "WithBonus",
]
