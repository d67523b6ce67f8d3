"""Learning-rate factors against their closed forms."""

from __future__ import annotations

import math

import pytest

from ocl.schedules import WarmupCosine, WarmupHalving


def test_the_published_schedule_decays_during_warm_up() -> None:
    factor = WarmupHalving(10_000, 100_000)
    for step in (9_999, 50_000, 250_000, 499_999):
        assert factor(step) == pytest.approx(0.5 ** (step / 100_000), rel=1e-12)
    for step in (0, 99, 4_999):  # the first step moves the weights too
        assert factor(step) == pytest.approx((step + 1) / 10_000 * 0.5 ** (step / 100_000), rel=1e-12)
    assert WarmupHalving(0, 10)(0) == 1


def test_a_cosine_ends_at_zero_and_stays_there() -> None:
    factor = WarmupCosine(total_steps=110, warmup_steps=10)
    assert [factor(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert factor(60) == pytest.approx(0.5)
    assert factor(35) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert factor(110) == factor(10_000) == 0
