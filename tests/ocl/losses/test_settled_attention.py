"""DIAS's self-distillation: closed forms, whom its gradient reaches, how its share rises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ocl.encoders.cnn import CNNEncoder
from ocl.losses.settled_attention import SettledAttention
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch, Features, Hints, Output, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.slots.slot_mlp import SlotMLP

SIZE, GRID, K, DIM = (12, 16), (6, 8), 4, 8


class Given(nn.Module):
    """A grouping whose first attention is told, as logits (B K h w)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, features: Features, initial: Tensor, iterations: int | None, hints: Hints | None) -> Slots:
        assert iterations == 1
        return Slots.of(initial, self.logits.softmax(dim=1))


class Model(nn.Module):
    def __init__(self, grouping: nn.Module) -> None:
        super().__init__()
        self.grouping = grouping


def model_of(grouping: nn.Module | None = None) -> ObjectCentricModel:
    grouping = SlotAttention(DIM, hidden_dim=8) if grouping is None else grouping
    return ObjectCentricModel(CNNEncoder(SIZE, DIM, 4, (2, 1)), RandomSlots(K, DIM), grouping, nn.Identity())


def output_of(model: ObjectCentricModel, batch: Batch) -> Output:
    grouped = model.group(model.encoder(batch.images))
    return Output(grouped.features, grouped.tokens, grouped.initial, grouped.slots, grouped)  # type: ignore[arg-type]


BATCH = Batch(torch.rand(2, 3, *SIZE))


def given(first: Tensor, last: Tensor) -> tuple[SettledAttention, Output]:
    loss, vectors = SettledAttention(), torch.zeros(2, K, DIM)
    loss.attach(Model(Given(first)))
    features = Features(torch.zeros(2, 48, DIM), GRID)
    return loss, Output(features, features, vectors, Slots.of(vectors, last), None)  # type: ignore[arg-type]


def test_it_is_the_cross_entropy_of_logits_towards_the_last_attention() -> None:
    first, last = torch.randn(2, K, *GRID), torch.randn(2, K, *GRID).softmax(dim=1)
    loss, output = given(first, last)
    torch.testing.assert_close(loss(output, BATCH), nn.functional.cross_entropy(first, last))


def test_its_least_value_is_the_entropy_of_the_last_attention() -> None:
    last = torch.randn(2, K, *GRID).softmax(dim=1)
    loss, output = given(last.log(), last)
    value = loss(output, BATCH)
    torch.testing.assert_close(value, -(last * last.log()).sum(dim=1).mean())
    value.backward()
    grouping = loss._grouping[0]
    assert float(grouping.logits.grad.abs().max()) < 1e-7
    loss, output = given(torch.zeros(2, K, *GRID), last)
    assert loss(output, BATCH).item() == pytest.approx(math.log(K))


@pytest.mark.parametrize("gradient", ["full", "bilevel"])
def test_the_first_attention_is_that_of_the_first_iteration(gradient: str) -> None:
    model = model_of(SlotAttention(DIM, iterations=3, hidden_dim=8, gradient=gradient))  # type: ignore[arg-type]
    loss = SettledAttention()
    loss.attach(model)
    output = output_of(model, BATCH)
    grouping = model.grouping
    tokens, start = grouping.norm_tokens(output.tokens.tokens), grouping.norm_slots(output.initial)
    first = (grouping.query(start) @ grouping.key(tokens).mT * DIM**-0.5).softmax(dim=1)
    expected = -(output.slots.masks.detach().flatten(2) * first.log()).sum(dim=1).mean()
    torch.testing.assert_close(loss(output, BATCH), expected)
    assert not list(loss.parameters())


def test_the_last_attention_gets_no_gradient() -> None:
    """Nothing that only later iterations use is moved: the gates and the MLP of slots."""
    model, loss = model_of(), SettledAttention()
    loss.attach(model)
    loss(output_of(model, BATCH), BATCH).backward()
    moved = {name for name, one in model.named_parameters() if one.grad is not None and bool((one.grad != 0).any())}
    assert {"grouping.query.weight", "grouping.key.weight", "initial_slots.mu"} <= moved
    assert any(name.startswith("encoder.") for name in moved)
    assert not [name for name in moved if name.startswith(("grouping.gru", "grouping.mlp", "grouping.value"))]


def test_gradient_steps_bring_the_first_attention_to_the_last() -> None:
    model, loss = model_of(), SettledAttention()
    loss.attach(model)
    noise = torch.randn(K, DIM)

    def divergence() -> Tensor:
        grouped = model.group(model.encoder(BATCH.images), noise=noise)
        output = Output(grouped.features, grouped.tokens, grouped.initial, grouped.slots, None)  # type: ignore[arg-type]
        last = grouped.slots.masks.detach()
        return loss(output, BATCH) + (last * last.log()).sum(dim=1).mean()  # KL(last || first)

    with torch.no_grad():
        for _ in range(3):  # far from settled
            model.grouping.query.weight.mul_(2)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    before = divergence().item()
    for _ in range(60):
        optimiser.zero_grad()
        divergence().backward()
        optimiser.step()
    assert 0 <= divergence().item() < 0.5 * before


def test_the_share_rises_by_half_a_cosine() -> None:
    loss, found = SettledAttention(4), []
    for _ in range(6):
        found.append(float(loss.share))
        loss.after_step()
    low = (1 - math.cos(math.pi / 4)) / 2
    assert found == pytest.approx([0, low, 0.5, 1 - low, 1, 1])
    assert float(SettledAttention().share) == 1
    model = model_of()
    halfway, whole = SettledAttention(4), SettledAttention()
    halfway.load_state_dict({"step": torch.tensor(2)})
    output = output_of(model, BATCH)
    for one in (halfway, whole):
        one.attach(model)
    torch.testing.assert_close(halfway(output, BATCH), 0.5 * whole(output, BATCH))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="rising_steps"):
        SettledAttention(-1)
    model = model_of()
    output = output_of(model, BATCH)
    with pytest.raises(ValueError, match="attach"):
        SettledAttention()(output, BATCH)
    blind = model_of(SlotMLP(DIM, K, 48))
    loss = SettledAttention()
    loss.attach(blind)
    with pytest.raises(ValueError, match="gives its attention"):
        loss(output_of(blind, BATCH), BATCH)
