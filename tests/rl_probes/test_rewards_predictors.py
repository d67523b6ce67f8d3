"""What every reward predictor owes its callers, and what the single ones compute."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.goal_similarity import Columns, HardMaxGoalSimilarity, SlotGoalSimilarity, SoftGoalSimilarity
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress
from rl_probes.rewards.shaping import PotentialShaping
from rl_probes.rewards.transition import SlotTransition

DIM = 8


def goal_similarity(kind=SlotGoalSimilarity):
    return kind([Columns([3, 4]), Columns([5, 6, 7])], identity=Columns([0, 1, 2]))


def predictors():
    torch.manual_seed(0)
    head = DeepSetProgress(DIM)
    head.mean.normal_()  # as a fitted head has it
    head.std.uniform_(0.5, 2.0)
    goals = [goal_similarity(), goal_similarity(HardMaxGoalSimilarity)]
    return [head, *goals, PotentialShaping(head, 0.9), PotentialShaping(goals[0], 0.9)]


PREDICTORS = predictors()
NAMES = ["deep set", "goal", "hard-max goal", "shaped head", "shaped goal"]
each_predictor = pytest.mark.parametrize("predictor", PREDICTORS, ids=NAMES)


def transition(batch=5, slots=6, masks=True, seed=0):
    """Random transitions with every field; with masks some slots, next slots and goal slots are padding."""
    generator = torch.Generator().manual_seed(seed)
    goals = 3

    def mask(count):
        valid = torch.rand(batch, count, generator=generator) < (0.7 if masks else 2.0)
        valid[:, 0] = True
        return valid

    return SlotTransition(
        slots=torch.randn(batch, slots, DIM, generator=generator),
        valid=mask(slots) if masks else None,
        next_slots=torch.randn(batch, slots, DIM, generator=generator),
        next_valid=mask(slots) if masks else None,
        goal_slots=torch.randn(batch, goals, DIM, generator=generator),
        goal_valid=mask(goals) if masks else None,
        goal_weight=torch.rand(batch, goals, generator=generator),
        actions=torch.zeros(batch, dtype=torch.long),
        rewards=torch.randn(batch, generator=generator),
        terminated=torch.rand(batch, generator=generator) < 0.5,
    )


def permuted(given, seed):
    """Every set in another order of its own; also the order of the slots."""
    generator = torch.Generator().manual_seed(seed)

    def order(tensor):
        return torch.rand(tensor.shape[:2], generator=generator).argsort(1)

    def take(tensor, index):
        return tensor.gather(1, index if tensor.ndim == 2 else index[..., None].expand_as(tensor))

    now, then, goal = (order(t) for t in (given.slots, given.next_slots, given.goal_slots))
    changed = SlotTransition(
        slots=take(given.slots, now),
        valid=take(given.valid, now),
        next_slots=take(given.next_slots, then),
        next_valid=take(given.next_valid, then),
        goal_slots=take(given.goal_slots, goal),
        goal_valid=take(given.goal_valid, goal),
        goal_weight=take(given.goal_weight, goal),
        actions=given.actions,
        rewards=given.rewards,
        terminated=given.terminated,
    )
    return changed, now


@each_predictor
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("slots", [1, 4, 9])
@pytest.mark.parametrize("masks", [False, True])
def test_output_has_its_shapes_and_stays_in_bounds(predictor, batch, slots, masks):
    output = predictor(transition(batch, slots, masks), attribute=True)
    assert output.reward.shape == (batch,)
    assert output.attribution.shape == (batch, slots)
    assert output.reward.isfinite().all()
    assert output.attribution.isfinite().all()
    low, high = predictor.bounds
    assert ((output.reward >= low) & (output.reward <= high)).all()
    assert ((output.progress >= 0) & (output.progress <= 1)).all()


@each_predictor
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_any_set_changes_nothing(predictor, seed):
    given = transition(batch=16, seed=seed)
    changed, order = permuted(given, seed)
    before, after = predictor(given, attribute=True), predictor(changed, attribute=True)
    torch.testing.assert_close(after.reward, before.reward, rtol=0, atol=1e-5)
    torch.testing.assert_close(after.attribution, before.attribution.gather(1, order), rtol=0, atol=1e-5)


def test_a_flattened_mlp_fails_the_same_test():
    torch.manual_seed(0)
    head = FlattenedProgress(DIM, num_slots=6)
    given = transition(batch=64)
    changed, _ = permuted(given, 0)
    assert (head(given).reward - head(changed).reward).abs().max() > 0.01


@each_predictor
@pytest.mark.parametrize("garbage", [1e6, -1e6, float("nan"), float("inf")])
def test_padding_has_no_influence(predictor, garbage):
    given = transition(batch=4)

    def pad(slots, valid):
        count = (len(slots), 3)
        more = torch.full((*count, DIM), garbage)
        return torch.cat([slots, more], 1), torch.cat([valid, torch.zeros(count, dtype=torch.bool)], 1)

    slots, valid = pad(given.slots, given.valid)
    next_slots, next_valid = pad(given.next_slots, given.next_valid)
    goal_slots, goal_valid = pad(given.goal_slots, given.goal_valid)
    padded = SlotTransition(
        slots, valid, next_slots, next_valid, goal_slots, goal_valid,
        goal_weight=torch.cat([given.goal_weight, torch.full((4, 3), garbage)], 1),
        rewards=given.rewards, terminated=given.terminated,
    )  # fmt: skip
    before, after = predictor(given, attribute=True), predictor(padded, attribute=True)
    torch.testing.assert_close(after.reward, before.reward, rtol=0, atol=1e-6)
    torch.testing.assert_close(after.attribution[:, :6], before.attribution, rtol=0, atol=1e-6)
    assert (after.attribution[:, 6:] == 0).all()
    assert (after.attribution[~padded.valid] == 0).all()


@each_predictor
def test_an_empty_state_is_flagged_and_finite(predictor):
    given = transition()
    given.valid[2] = False
    output = predictor(SlotTransition(**vars(given)), attribute=True)
    assert output.extras["empty"].tolist() == [False, False, True, False, False]
    assert output.reward.isfinite().all()
    assert (output.attribution[2] == 0).all()
    if predictor.kind == "potential":
        assert output.reward[2] == 0


@each_predictor
def test_attribution_keeps_its_contract(predictor):
    given = transition(batch=8)
    output = predictor(given, attribute=True)
    if predictor.attribution_kind == "additive":
        torch.testing.assert_close(output.attribution.sum(1), output.reward, rtol=0, atol=1e-5)
        return
    for k in range(given.slots.shape[1]):
        valid = given.valid.clone()
        valid[:, k] = False
        without = predictor(SlotTransition(**{**vars(given), "valid": valid})).reward
        expected = torch.where(given.valid[:, k], output.reward - without, 0.0)
        torch.testing.assert_close(output.attribution[:, k], expected, rtol=0, atol=1e-5)


def test_a_missing_field_is_named():
    slots = torch.randn(2, 3, DIM)
    with pytest.raises(ValueError, match="SlotGoalSimilarity needs goal_slots"):
        goal_similarity()(SlotTransition(slots))
    with pytest.raises(ValueError, match="needs next_slots, rewards, terminated"):
        PotentialShaping(DeepSetProgress(DIM), 0.9)(SlotTransition(slots))
    with pytest.raises(ValueError, match="next_slots"):
        SlotTransition(slots).advanced()


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"slots": torch.zeros(3, DIM)}, ValueError, "slots must be"),
        ({"valid": torch.ones(2, 4, dtype=torch.bool)}, ValueError, "mask of slots"),
        ({"valid": torch.ones(2, 3)}, TypeError, "must be bool"),
        ({"next_slots": torch.zeros(2, 3, DIM + 1)}, ValueError, "next_slots must be"),
        ({"next_valid": torch.ones(2, 3, dtype=torch.bool)}, ValueError, "next_slots, which are absent"),
        ({"goal_weight": torch.ones(2, 3)}, ValueError, "goal_slots, which are absent"),
        ({"goal_slots": torch.zeros(2, 3, DIM), "goal_weight": torch.ones(2, 2)}, ValueError, "goal_weight must be"),
        ({"terminated": torch.zeros(2)}, TypeError, "must be bool"),
        ({"rewards": torch.zeros(3)}, ValueError, "rewards must have one entry"),
        ({"rewards": torch.zeros(2, 1)}, ValueError, "rewards must have one entry"),  # would broadcast to (2, 2)
        ({"terminated": torch.zeros(2, 1, dtype=torch.bool)}, ValueError, "terminated must have one entry"),
        ({"slots": torch.zeros(2, 0, DIM)}, ValueError, "room for at least one slot"),
        ({"slots": torch.full((2, 3, DIM), torch.nan)}, ValueError, "a valid slot holds NaN"),
        ({"next_slots": torch.full((2, 3, DIM), -torch.inf)}, ValueError, "a valid slot holds NaN"),
        ({"goal_slots": torch.full((2, 1, DIM), torch.nan)}, ValueError, "a valid slot holds NaN"),
        ({"goal_slots": torch.zeros(2, 1, DIM), "goal_weight": -torch.ones(2, 1)}, ValueError, "not negative"),
        ({"goal_slots": torch.zeros(2, 1, DIM), "goal_weight": torch.full((2, 1), torch.nan)}, ValueError, "finite"),
    ],
)
def test_a_wrong_field_is_named(fields, error, sentence):
    with pytest.raises(error, match=sentence):
        SlotTransition(**{"slots": torch.zeros(2, 3, DIM), **fields})


def test_large_slots_whose_sum_overflows_are_finite():
    SlotTransition(torch.full((2, 3, DIM), 3e38))


def test_rewards_that_are_read_must_be_finite():
    """NaN stands for a step that nobody paid for, which concerns only those who read what was paid."""
    slots = torch.zeros(2, 3, DIM)
    unpaid = {"rewards": torch.tensor([1.0, torch.nan]), "terminated": torch.zeros(2, dtype=torch.bool)}
    given = SlotTransition(slots, next_slots=slots, **unpaid)
    with pytest.raises(ValueError, match="PotentialShaping got a reward of the environment that is NaN"):
        PotentialShaping(DeepSetProgress(DIM), 0.9)(given)
    assert DeepSetProgress(DIM)(given).reward.isfinite().all()


def test_a_head_refuses_another_width():
    with pytest.raises(ValueError, match="width 8, got 9"):
        DeepSetProgress(DIM)(SlotTransition(torch.zeros(2, 3, DIM + 1)))


def test_half_precision_slots_change_a_head_little():
    given = transition(batch=256)
    head = PREDICTORS[0]
    halved = SlotTransition(given.slots.half(), given.valid)
    assert (head(given).reward - head(halved).reward).abs().max() < 1e-2


# Goal similarity


def scene(*objects):
    """Objects (identity, x, y) as slots (1 K 8): identity one-hot in 0..2, position in 3..4, a constant colour."""
    slots = torch.zeros(1, len(objects), DIM)
    for k, (identity, x, y) in enumerate(objects):
        slots[0, k, identity] = 1.0
        slots[0, k, 3:5] = torch.tensor([x, y])
        slots[0, k, 5:8] = 1.0
    return slots


def test_a_reached_goal_scores_one():
    slots = scene((0, 1.0, 0.2), (1, -0.5, 0.5), (2, 0.1, 0.9))
    output = goal_similarity()(SlotTransition(slots.flip(1), goal_slots=slots))
    assert output.reward.item() == pytest.approx(1.0, abs=1e-6)
    assert output.extras["matched_slot"].tolist() == [[2, 1, 0]]


def test_one_slot_cannot_satisfy_two_goals():
    goal = scene((0, 1.0, 0.0), (0, 1.0, 0.0))
    current = scene((0, 1.0, 0.0), (1, 1.0, 0.0))
    twice = goal_similarity(HardMaxGoalSimilarity)(SlotTransition(current, goal_slots=goal)).reward.item()
    once = goal_similarity()(SlotTransition(current, goal_slots=goal)).reward.item()
    assert twice == pytest.approx(1.0, abs=1e-6)
    assert once == pytest.approx(0.5, abs=1e-6)


def test_soft_assignment_lies_between_the_mean_and_the_maximum():
    given = transition(batch=20, seed=5)
    parts = [Columns([3, 4]), Columns([5, 6, 7])], Columns([0, 1, 2])
    cold, warm, hot = (SoftGoalSimilarity(*parts, temperature=t)(given).reward for t in (1e-4, 0.1, 1e4))
    torch.testing.assert_close(cold, HardMaxGoalSimilarity(*parts)(given).reward, rtol=0, atol=1e-4)
    similarity = SoftGoalSimilarity(*parts).similarity(given.goal_slots, given.slots)
    mean = (similarity * given.valid[:, None]).sum(2) / given.valid.sum(1, keepdim=True)
    weight = given.goal_weight / given.goal_weight.sum(1, keepdim=True)
    torch.testing.assert_close(hot, (mean * weight).sum(1), rtol=0, atol=1e-4)
    assert ((hot <= warm + 1e-6) & (warm <= cold + 1e-6)).all()
    slots = given.slots.clone().requires_grad_()
    soft = SoftGoalSimilarity(*parts)(SlotTransition(slots, given.valid, goal_slots=given.goal_slots))
    soft.reward.sum().backward()
    assert slots.grad.isfinite().all()
    assert (slots.grad[given.valid].abs().amax(1) > 0).float().mean() > 0.5
    with pytest.raises(ValueError, match="temperature must be positive"):
        SoftGoalSimilarity(*parts, temperature=0.0)


def test_two_opposite_attributes_are_no_match():
    """Without clipping, an opposite identity times opposite attributes would score one."""
    goal = torch.ones(1, 1, DIM)
    assert goal_similarity()(SlotTransition(-goal, goal_slots=goal)).reward.item() == 0.0


def test_a_weightless_goal_slot_has_no_effect():
    current = scene((0, 1.0, 0.0), (1, 0.3, 0.4))
    goal = scene((0, 0.5, 0.5), (1, 1.0, 0.0), (0, 1.0, 0.0))
    weight = torch.tensor([[2.0, 1.0, 0.0]])
    weighted = goal_similarity()(SlotTransition(current, goal_slots=goal, goal_weight=weight))
    without = goal_similarity()(SlotTransition(current, goal_slots=goal[:, :2], goal_weight=weight[:, :2]))
    assert weighted.reward.item() == pytest.approx(without.reward.item(), abs=1e-6)
    # By hand: (2 * cos 45 deg + (0.3 / 0.5)) for the positions, colours alike, gates one.
    expected = (2 * (0.5**0.5 + 1) / 2 + (0.6 + 1) / 2) / 3
    assert without.reward.item() == pytest.approx(expected, abs=1e-6)


def test_a_weightless_goal_scores_zero():
    slots = scene((0, 1.0, 0.0))
    output = goal_similarity()(SlotTransition(slots, goal_slots=slots, goal_weight=torch.zeros(1, 1)))
    assert output.reward.item() == 0.0


def test_goal_similarity_equals_a_loop_over_objects():
    """StateFactory's sum written out with scipy, on random scenes with padding."""
    given = transition(batch=20, seed=4)

    def cosine(a, b):
        return max(0.0, float(a @ b / (a.norm() * b.norm())))

    for one_to_one, predictor in ((True, goal_similarity()), (False, goal_similarity(HardMaxGoalSimilarity))):
        found = predictor(given).reward
        for b in range(20):
            goals, slots = given.goal_slots[b][given.goal_valid[b]], given.slots[b][given.valid[b]]
            weight = given.goal_weight[b][given.goal_valid[b]]
            weight = weight / weight.sum()
            table = np.array(
                [
                    [
                        cosine(g[:3], s[:3]) * (cosine(g[3:5], s[3:5]) + cosine(g[5:], s[5:])) / 2 * float(w)
                        for s in slots
                    ]
                    for g, w in zip(goals, weight, strict=True)
                ]
            )
            rows, columns = linear_sum_assignment(table, maximize=True)
            expected = table[rows, columns].sum() if one_to_one else table.max(1).sum()
            assert found[b].item() == pytest.approx(expected, abs=1e-5)


# Checkpoints


def test_a_saved_head_answers_the_same(tmp_path):
    head = PREDICTORS[0]
    head.encoder_fingerprint = "ab" * 32
    save_head(head, tmp_path, seed=3)
    again = load_head(DeepSetProgress, tmp_path)
    assert again.encoder_fingerprint == "ab" * 32
    given = transition()
    assert torch.equal(head(given).reward, again(given).reward)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors"]


def test_a_damaged_head_is_refused(tmp_path):
    save_head(PREDICTORS[0], tmp_path)
    with pytest.raises(ValueError, match="holds a DeepSetProgress, expected a FlattenedProgress"):
        load_head(FlattenedProgress, tmp_path)
    tensors = tmp_path / "head.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="checksum differs"):
        load_head(DeepSetProgress, tmp_path)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"head\.safetensors does not exist"):
        load_head(DeepSetProgress, tmp_path)
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a progress head"):
        load_head(DeepSetProgress, tmp_path)
