"""Every predictor keeps the contract; those that break it on purpose are caught."""

import pytest
import torch

from rl_probes.rewards.aligned_blend import AlignedBlend
from rl_probes.rewards.arithmetic import ObjectArithmetic
from rl_probes.rewards.best_so_far import BestSoFar
from rl_probes.rewards.combine import BoundedCentered, KeyReward, RunningScale, WeightedSum
from rl_probes.rewards.contract import (
    CHECKS,
    ContractError,
    check_attribution,
    check_empty,
    check_missing_fields,
    check_order,
    check_outputs,
    check_padding,
    check_repeatable,
)
from rl_probes.rewards.episodic_novelty import EpisodicNovelty
from rl_probes.rewards.goal_similarity import Columns, HardMaxGoalSimilarity, SlotGoalSimilarity, SoftGoalSimilarity
from rl_probes.rewards.hindsight_curiosity import HindsightCuriosity
from rl_probes.rewards.hop_reward import HopReward, HopShaping
from rl_probes.rewards.latent_preferences import LatentPreferenceReward
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.perceptual_reward import PerceptualSteps
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.preference_reward import PreferenceReward
from rl_probes.rewards.return_scale import ReturnScale
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress, TransformerProgress
from rl_probes.rewards.shaping import PotentialShaping
from rl_probes.rewards.stage_progress import StageProgress
from rl_probes.rewards.three_heads import ThreeHeads
from rl_probes.rewards.transition import RewardOutput

DIM = 8
PARTS = {"attributes": [Columns([3, 4]), Columns([5, 6, 7])], "identity": Columns([0, 1, 2])}


def fitted(head):
    """Scales as a fitted head has them."""
    head.mean.normal_()
    head.std.uniform_(0.5, 2.0)
    return head.eval()


def perceived():
    """Steps of three random demonstrations."""
    demonstrations = [(torch.randn(20, 5, DIM), torch.rand(20, 5) < 0.8) for _ in range(3)]
    head = PerceptualSteps(DIM, 3)
    head.fit(demonstrations)
    return head.eval()


def known(head):
    """A person other than the prior's mean."""
    head.person.normal_()
    return head


def predictors():
    torch.manual_seed(0)
    progress, goal = fitted(DeepSetProgress(DIM)), SlotGoalSimilarity(**PARTS)
    return {
        "deep set": progress,
        "goal": goal,
        "hard-max goal": HardMaxGoalSimilarity(**PARTS),
        "soft goal": SoftGoalSimilarity(**PARTS),
        "shaped head": PotentialShaping(progress, 0.9),
        "shaped goal": PotentialShaping(goal, 0.9),
        "stages": fitted(StageProgress(DIM, 3)),
        "one stage": fitted(StageProgress(DIM, 1)),
        "hop": fitted(HopReward(DIM)),
        "hop shaping": HopShaping(fitted(HopReward(DIM)), 0.9),
        "consistent hop shaping": HopShaping(fitted(HopReward(DIM)), 0.9, sharpness=1.0),
        "preferences": fitted(PreferenceReward(DIM)),
        "sum of potentials": WeightedSum([progress, goal], [1.0, -2.0]),
        "sum of rewards": WeightedSum([HopReward(DIM), PotentialShaping(progress, 0.9), goal], [1.0, 0.5, 2.0]),
        "key": KeyReward([HopReward(DIM), goal]),
        "scaled": RunningScale(progress),
        "scaled by returns": ReturnScale(progress, 0.9),
        "bounded": BoundedCentered(fitted(PreferenceReward(DIM)), torch.randn(7)),
        "best so far": BestSoFar(progress),
        "arithmetic": ObjectArithmetic(torch.nn.Linear(DIM, 16)),
        "random distillation": RandomDistillation(DIM, SetNetwork(DIM), SetNetwork(DIM)),
        "perceptual steps": perceived(),
        "three heads": fitted(ThreeHeads(DIM)),
        "fresh episodes": EpisodicNovelty(SetNetwork(DIM)),
        "hindsight": HindsightCuriosity(DIM, 4),
        "blend": AlignedBlend([progress, HopReward(DIM)], [1.0, 0.5, -2.0]),
        "latent preferences": known(fitted(LatentPreferenceReward(DIM))),
        "transformer": fitted(TransformerProgress(DIM)),
    }


PREDICTORS = predictors()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PREDICTORS)
def test_the_contract_is_kept(name, check):
    check(PREDICTORS[name], DIM)


def test_a_flattened_mlp_breaks_it():
    torch.manual_seed(0)
    with pytest.raises(ContractError, match="the order of the slots changes the reward"):
        check_order(FlattenedProgress(DIM, num_slots=6), DIM)


class Broken(RewardPredictor):
    """The sum of all features, made to break one promise each."""

    kind = "reward"
    state_dependence = "state"
    bounds = (float("-inf"), float("inf"))

    def predict(self, transition):
        return RewardOutput(reward=transition.slots.sum((1, 2)))


class Unbounded(Broken):
    bounds = (0.0, 1.0)


class MeanOverPadding(Broken):
    def predict(self, transition):
        return RewardOutput(reward=transition.slots.mean((1, 2)))


class FirstSlot(Broken):
    attribution_kind = "additive"

    def predict(self, transition):
        share = transition.slots.sum(2)
        return RewardOutput(reward=share.sum(1), attribution=share * (torch.arange(share.shape[1]) == 0))


class Goalless(Broken):
    def predict(self, transition):
        return RewardOutput(reward=transition.goal_slots.sum((1, 2)))


class SilentDefault(Broken):
    requires = frozenset({"goal_slots"})

    def check(self, transition):
        pass


class NanWhereEmpty(Broken):
    def predict(self, transition):
        return RewardOutput(reward=transition.next_slots.sum((1, 2)) / transition.next_valid.any(1))


class Counter(Broken):
    calls = 0

    def predict(self, transition):
        self.calls += 1
        return RewardOutput(reward=transition.slots.sum((1, 2)) + self.calls)


@pytest.mark.parametrize(
    ("predictor", "check", "sentence"),
    [
        (Unbounded(), check_outputs, "outside its bounds"),
        (MeanOverPadding(), check_padding, "padding that holds .* changes the reward"),
        (FirstSlot(), check_attribution, "additive attribution misses the reward"),
        (SilentDefault(), check_missing_fields, "an answer without goal_slots"),
        (NanWhereEmpty(), check_empty, "out of its bounds where next_valid is all False"),
        (Counter(), check_repeatable, "another answer when it is asked again"),
    ],
)
def test_every_promise_can_be_broken(predictor, check, sentence):
    with pytest.raises(ContractError, match=sentence):
        check(predictor, DIM)


def test_a_requirement_that_is_not_stated_is_found():
    with pytest.raises(AttributeError):
        check_missing_fields(Goalless(), DIM)


def test_a_sound_predictor_breaks_none():
    for check in CHECKS:
        check(Broken(), DIM)
