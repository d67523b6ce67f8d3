"""Slot MLP against its sentence, and what tells it from Slot Attention."""

from __future__ import annotations

import pytest
import torch

from ocl.shapes import Features
from ocl.slots.slot_mlp import SlotMLP


def test_it_is_one_mlp_on_all_tokens() -> None:
    module = SlotMLP(dim=8, num_slots=3, num_tokens=20, token_dim=5, hidden_dim=16).double()
    tokens, start = torch.randn(2, 20, 5).double(), torch.randn(2, 3, 8).double()
    slots = module(Features(tokens, (4, 5)), start)
    first, second = module.mlp[0], module.mlp[2]
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    normal = centred / (tokens.var(dim=-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    hidden = (normal.reshape(2, 100) @ first.weight.T).clamp(min=0)
    torch.testing.assert_close(slots.vectors, start + (hidden @ second.weight.T).reshape(2, 3, 8))
    assert slots.masks is None


def test_it_depends_on_the_order_of_tokens() -> None:
    module, start = SlotMLP(8, 3, 20), torch.zeros(1, 3, 8)
    tokens = torch.randn(1, 20, 8)
    there = module(Features(tokens, (4, 5)), start).vectors
    back = module(Features(tokens.flip(1), (4, 5)), start).vectors
    assert (there - back).abs().max() > 0.1


def test_another_number_is_refused() -> None:
    module = SlotMLP(8, 3, 20)
    with pytest.raises(ValueError, match="tokens must be"):
        module(Features(torch.randn(1, 16, 8), (4, 4)), torch.randn(1, 3, 8))
    with pytest.raises(ValueError, match="fixed number"):
        module(Features(torch.randn(1, 20, 8), (4, 5)), torch.randn(1, 4, 8))
