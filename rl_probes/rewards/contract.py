"""What every reward predictor owes its callers, as checks that any predictor can be put through.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MyPredictor(), dim=8)

A check is a function (predictor, dim, num_slots=6, seed=0): it draws random transitions of slots of width `dim` with
padding among them and raises `ContractError`, which is an AssertionError, where the answer breaks a promise of
`RewardPredictor`. Run it on a predictor in eval mode that has observed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition

SETS = ("slots", "next_slots", "goal_slots")
MASKS = ("valid", "next_valid", "goal_valid")
GARBAGE = (1e6, -1e6, float("nan"), float("inf"))


class ContractError(AssertionError):
    """A predictor that does not keep a promise of `RewardPredictor`."""


def random_transitions(
    dim: int, num_slots: int = 6, batch: int = 16, goals: int = 3, masks: bool = True, seed: int = 0
) -> SlotTransition:
    """B transitions with every field given; with `masks` some slots of every set are padding, never all of one."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> Tensor:
        valid = torch.rand(batch, count, generator=generator) < (0.7 if masks else 2.0)
        kept = torch.randint(count, (batch, 1), generator=generator)
        return valid.scatter(1, kept, True)

    return SlotTransition(
        slots=torch.randn(batch, num_slots, dim, generator=generator),
        valid=some(num_slots),
        next_slots=torch.randn(batch, num_slots, dim, generator=generator),
        next_valid=some(num_slots),
        goal_slots=torch.randn(batch, goals, dim, generator=generator),
        goal_valid=some(goals),
        goal_weight=torch.rand(batch, goals, generator=generator) + 0.1,
        actions=torch.randint(4, (batch,), generator=generator),
        rewards=torch.randn(batch, generator=generator),
        terminated=torch.rand(batch, generator=generator) < 0.3,
    )


def check_outputs(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """Shapes, finiteness and bounds, for one transition and several, one slot and several, with padding or without."""
    for batch in (1, 5):
        for masks in (False, True):
            for slots in sorted({1, 4, num_slots, 9}):
                output = predictor(random_transitions(dim, slots, batch, masks=masks, seed=seed), attribute=True)
                where = f"on ({batch}, {slots}, {dim}) slots"
                _require(
                    predictor, output.reward.shape == (batch,), f"a reward of {tuple(output.reward.shape)} {where}"
                )
                _require(predictor, bool(output.reward.isfinite().all()), f"a reward that is not finite {where}")
                low, high = predictor.bounds
                inside = ((output.reward >= low) & (output.reward <= high)).all()
                _require(predictor, bool(inside), f"a reward outside its bounds {predictor.bounds} {where}")
                for name in ("progress", "success_logit"):
                    value = getattr(output, name)
                    fits = value is None or (value.shape == (batch,) and bool(value.isfinite().all()))
                    _require(predictor, fits, f"a {name} that is not finite (B,) {where}")
                if output.progress is not None:
                    inside = ((output.progress >= 0) & (output.progress <= 1)).all()
                    _require(predictor, bool(inside), f"a progress outside [0, 1] {where}")


def check_order(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """Slots, next slots and goal slots, each set in an order of its own: equal answers, attribution permuted."""
    given = random_transitions(dim, num_slots, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    changes: dict[str, Tensor] = {}
    orders = []
    for slots, mask in zip(SETS, MASKS, strict=True):
        vectors, valid = getattr(given, slots), getattr(given, mask)
        order = torch.rand(valid.shape, generator=generator).argsort(1)
        changes[slots] = vectors.gather(1, order[..., None].expand_as(vectors))
        changes[mask] = valid.gather(1, order)
        orders.append(order)
    assert given.goal_weight is not None
    changes["goal_weight"] = given.goal_weight.gather(1, orders[2])
    before, after = predictor(given, attribute=True), predictor(_replaced(given, changes), attribute=True)
    _same_answer(predictor, before, after, "the order of the slots changes")
    assert before.attribution is not None
    moved = before.attribution.gather(1, orders[0])
    _same(predictor, moved, after.attribution, "attribution does not follow the order of the slots, by")


def check_padding(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """More padding, holding huge values, NaN or infinity, has neither influence nor attribution."""
    given = random_transitions(dim, num_slots, seed=seed)
    before = predictor(given, attribute=True)
    assert before.attribution is not None
    for garbage in GARBAGE:
        changes: dict[str, Tensor] = {}
        for slots, mask in zip(SETS, MASKS, strict=True):
            vectors, valid = getattr(given, slots), getattr(given, mask)
            more = vectors.new_full((len(vectors), 3, dim), garbage)
            changes[slots] = torch.cat([vectors.masked_fill(~valid[..., None], garbage), more], 1)
            changes[mask] = torch.cat([valid, valid.new_zeros(len(valid), 3)], 1)
        assert given.goal_weight is not None
        changes["goal_weight"] = torch.cat([given.goal_weight, given.goal_weight.new_full((len(given), 3), garbage)], 1)
        after = predictor(_replaced(given, changes), attribute=True)
        _same_answer(predictor, before, after, f"padding that holds {garbage} changes")
        assert after.attribution is not None
        _same(predictor, before.attribution, after.attribution[:, :num_slots], "padding changes attribution by")
        spill = after.attribution[~changes["valid"]]
        _require(predictor, bool((spill == 0).all()), "attribution for padding")


def check_attribution(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """Additive attribution sums to the reward; leave-one-out attribution is what the reward loses without a slot."""
    given = random_transitions(dim, num_slots, seed=seed)
    output = predictor(given, attribute=True)
    assert given.valid is not None
    _require(predictor, output.attribution is not None, "no attribution although it was asked for")
    assert output.attribution is not None
    _require(predictor, output.attribution.shape == given.valid.shape, "attribution that is not (B, K)")
    _require(predictor, bool(output.attribution.isfinite().all()), "attribution that is not finite")
    if predictor.attribution_kind == "additive":
        _same(predictor, output.reward, output.attribution.sum(1), "additive attribution misses the reward by")
        return
    for k in range(num_slots):
        valid = given.valid.clone()
        valid[:, k] = False
        loss = output.reward - predictor(_replaced(given, {"valid": valid})).reward
        expected = torch.where(given.valid[:, k], loss, 0.0)
        _same(predictor, expected, output.attribution[:, k], "leave-one-out attribution is off by")


def check_missing_fields(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """A required field that is absent is a ValueError that names it; what is not required may be absent."""
    given = random_transitions(dim, num_slots, seed=seed)
    optional = ("next_slots", "goal_slots", "actions", "rewards", "terminated")
    unknown = sorted(predictor.requires - set(optional))
    _require(predictor, not unknown, f"requirements that no transition can meet ({', '.join(unknown)})")
    predictor(_without(given, *(name for name in optional if name not in predictor.requires)))
    for name in sorted(predictor.requires):
        try:
            predictor(_without(given, name))
        except ValueError as error:
            _require(predictor, name in str(error), f"an error that does not name the missing {name} ({error})")
        else:
            raise ContractError(f"{type(predictor).__name__} breaks the contract: an answer without {name}.")


def check_empty(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """States, next states or goals without any valid slot: finite, inside the bounds, and flagged where it is s."""
    given = random_transitions(dim, num_slots, seed=seed)
    low, high = predictor.bounds
    for mask in MASKS:
        valid = getattr(given, mask).clone()
        valid[::2] = False
        output = predictor(_replaced(given, {mask: valid}), attribute=True)
        inside = (output.reward.isfinite() & (output.reward >= low) & (output.reward <= high)).all()
        _require(predictor, bool(inside), f"a reward out of its bounds where {mask} is all False")
        empty = ~valid.any(1) if mask == "valid" else torch.zeros(len(given), dtype=torch.bool)
        flagged = output.extras["empty"]
        _require(predictor, bool((flagged == empty).all()), f"a wrong extras['empty'] where {mask} is all False")
        assert output.attribution is not None
        _require(predictor, bool((output.attribution[empty] == 0).all()), "attribution in a state without slots")
        if not isinstance(predictor, ComposedPredictor):
            neutral = (output.reward[empty] == predictor.neutral).all()
            _require(predictor, bool(neutral), f"not {predictor.neutral} for a state without slots")


def check_repeatable(predictor: RewardPredictor, dim: int, num_slots: int = 6, seed: int = 0) -> None:
    """Prediction changes nothing: asked twice, the same answer, and nothing that was passed in is altered."""
    given = random_transitions(dim, num_slots, seed=seed)
    kept = {name: value.clone() for name, value in vars(given).items() if value is not None}
    first, second = predictor(given, attribute=True).reward, predictor(given, attribute=True).reward
    _require(predictor, torch.equal(first, second), "another answer when it is asked again")
    for name, value in kept.items():
        _require(predictor, torch.equal(getattr(given, name), value), f"{name} altered by the prediction")


CHECKS: tuple[Callable[..., None], ...] = (
    check_outputs,
    check_order,
    check_padding,
    check_attribution,
    check_missing_fields,
    check_empty,
    check_repeatable,
)


def _replaced(given: SlotTransition, changes: dict[str, Any]) -> SlotTransition:
    return replace(given, **changes)


def _without(given: SlotTransition, *names: str) -> SlotTransition:
    beside = {"next_slots": ("next_valid",), "goal_slots": ("goal_valid", "goal_weight")}
    gone = [part for name in names for part in (name, *beside.get(name, ()))]
    return _replaced(given, dict.fromkeys(gone))


def _same_answer(predictor: RewardPredictor, before: RewardOutput, after: RewardOutput, what: str) -> None:
    for name in ("reward", "progress", "success_logit"):
        if getattr(before, name) is not None:
            _same(predictor, getattr(before, name), getattr(after, name), f"{what} the {name} by")


def _same(predictor: RewardPredictor, expected: Tensor, found: Tensor | None, what: str) -> None:
    _require(predictor, found is not None and found.shape == expected.shape, f"{what} something that is not there")
    assert found is not None
    deviation = float((found - expected).detach().abs().max())
    # float32 sums in another order, of values whose size the bounds do not limit
    _require(predictor, deviation <= 1e-5 * max(1.0, float(expected.detach().abs().max())), f"{what} {deviation:.2g}")


def _require(predictor: RewardPredictor, kept: bool, what: str) -> None:
    if not kept:
        raise ContractError(f"{type(predictor).__name__} breaks the contract: {what}.")
