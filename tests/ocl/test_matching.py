"""Assignments against brute force, and the rules on validity."""

import itertools
import math

import pytest
import torch

from ocl.matching import optimal_assignment


def brute_force(cost, rows, columns):
    """Least total over all ways to pair min(rows, columns) of them."""
    if len(rows) > len(columns):
        cost, rows, columns = cost.T, columns, rows
    return min(
        (
            sum(float(cost[r, c]) for r, c in zip(rows, pick, strict=True))
            for pick in itertools.permutations(columns, len(rows))
        ),
        default=0.0,
    )


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 6), (6, 3), (1, 4), (4, 1)])
def test_total_equals_brute_force_under_any_validity(rows, columns):
    cost = torch.randn(40, rows, columns, dtype=torch.float64)
    row_valid, column_valid = torch.rand(40, rows) < 0.7, torch.rand(40, columns) < 0.7
    chosen, matched = optimal_assignment(cost, row_valid, column_valid)
    for i in range(40):
        valid_rows, valid_columns = row_valid[i].nonzero()[:, 0].tolist(), column_valid[i].nonzero()[:, 0].tolist()
        pairs = [(r, int(chosen[i, r])) for r in range(rows) if matched[i, r]]
        assert len(pairs) == min(len(valid_rows), len(valid_columns))
        assert len({c for _, c in pairs}) == len(pairs)
        assert {r for r, _ in pairs} <= set(valid_rows)
        assert {c for _, c in pairs} <= set(valid_columns)
        total = sum(float(cost[i, r, c]) for r, c in pairs)
        assert math.isclose(total, brute_force(cost[i], valid_rows, valid_columns), abs_tol=1e-12)


def test_invalid_entries_cannot_change_who_gets_whom():
    cost = torch.tensor([[[1.0, 2.0, -9.0], [2.0, 1.0, -9.0], [-9.0, -9.0, -9.0]]])
    valid = torch.tensor([[True, True, False]])
    chosen, matched = optimal_assignment(cost, valid, valid)
    assert chosen[0, :2].tolist() == [0, 1]
    assert matched.tolist() == [[True, True, False]]
    cost[0, 2] = cost[0, :, 2] = float("nan")
    assert optimal_assignment(cost, valid, valid).columns.equal(chosen)


def test_unmatched_rows_point_at_column_zero_and_are_marked():
    chosen, matched = optimal_assignment(torch.tensor([[[5.0], [1.0], [7.0]]]))
    assert matched.tolist() == [[False, True, False]]
    assert chosen.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_sides_match_nothing(shape):
    chosen, matched = optimal_assignment(torch.zeros(shape))
    assert chosen.shape == matched.shape == shape[:2]
    assert not matched.any()


def test_permuting_columns_permutes_the_answer():
    cost = torch.randn(30, 4, 7)
    order = torch.randperm(7)
    before = optimal_assignment(cost).columns
    after = optimal_assignment(cost[:, :, order]).columns
    assert order[after].equal(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_costs_that_are_not_finite_are_refused_by_name(bad):
    cost = torch.zeros(3, 2, 2)
    cost[1, 0, 1] = bad
    with pytest.raises(ValueError, match="table 1 holds NaN or infinity"):
        optimal_assignment(cost)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"cost must be \(B, R, C\)"):
        optimal_assignment(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="row_valid must be bool"):
        optimal_assignment(torch.zeros(1, 2, 3), row_valid=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="column_valid must be bool"):
        optimal_assignment(torch.zeros(1, 2, 3), column_valid=torch.ones(1, 3))


def test_half_precision_costs_are_accepted():
    assert optimal_assignment(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.bfloat16)).columns.tolist() == [
        [1, 0]
    ]
