"""SPOT's distillation: closed forms, the matching by brute force, and teachers that follow or stay."""

from __future__ import annotations

import copy
import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.decoders.mlp import MLPDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.attention_distillation import AttentionDistillation, matched_slots
from ocl.losses.teachers import FrozenTeacher, MovingAverageTeacher, Teacher
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch, Decoded, Features, Output, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots

GRID = (3, 4)


class Given(Teacher):
    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return self.masks


def output_of(attention: Tensor | None) -> Output:
    vectors = torch.zeros(2, 4, 8)
    features = Features(torch.zeros(2, 12, 8), GRID)
    return Output(features, features, vectors, Slots.of(vectors, attention), Decoded(vectors, vectors))


def model_of() -> ObjectCentricModel:
    encoder, grouping = CNNEncoder((12, 16), 8, 8, (2, 2)), SlotAttention(8, hidden_dim=8)
    return ObjectCentricModel(encoder, LearnedSlots(3, 8), grouping, MLPDecoder(8, 8, (3, 4), 16))


BATCH = Batch(torch.rand(2, 3, 12, 16))


def test_a_student_that_is_the_teacher_in_another_order_pays_nothing() -> None:
    masks = F.one_hot(torch.randint(4, (2, *GRID)), 4).movedim(-1, 1).float()
    loss = AttentionDistillation(Given(masks))
    assert float(loss(output_of(masks[:, torch.tensor([2, 0, 3, 1])]), BATCH)) == 0


def test_an_even_student_pays_log_k() -> None:
    masks = torch.rand(2, 4, *GRID).softmax(dim=1)
    loss = AttentionDistillation(Given(masks))(output_of(torch.full((2, 4, *GRID), 0.25)), BATCH)
    assert float(loss) == pytest.approx(math.log(4))


def test_equals_cross_entropy_of_the_logits_under_the_best_of_all_matchings() -> None:
    logits, masks = torch.randn(2, 4, *GRID, requires_grad=True), torch.randn(2, 4, *GRID).softmax(1)
    target, won = masks.argmax(1), logits.argmax(1)

    def total_iou(image: int, order: tuple[int, ...]) -> float:
        pairs = [(target[image] == label, won[image] == slot) for label, slot in enumerate(order)]
        return sum(float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in pairs)

    best = [max(permutations(range(4)), key=lambda order, i=image: total_iou(i, order)) for image in range(2)]
    permuted = torch.stack([logits[image, list(order)] for image, order in enumerate(best)])
    expected = F.cross_entropy(permuted, target)
    loss = AttentionDistillation(Given(masks))(output_of(logits.softmax(1)), BATCH)
    torch.testing.assert_close(loss, expected)
    (ours,) = torch.autograd.grad(loss, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    match = matched_slots(logits.detach().flatten(2), target.flatten(1), 4)
    assert [total_iou(i, tuple(row)) for i, row in enumerate(match.tolist())] == pytest.approx(
        [total_iou(i, order) for i, order in enumerate(best)]
    )


def test_a_moving_average_follows_and_a_frozen_teacher_stays() -> None:
    model = model_of()
    frozen, moving = FrozenTeacher(copy.deepcopy(model)), MovingAverageTeacher(0.75)
    losses = [AttentionDistillation(teacher) for teacher in (frozen, moving)]
    for loss in losses:
        loss.attach(model)
    assert not any(parameter.requires_grad for loss in losses for parameter in loss.parameters())
    before = model.decoder.first.weight.detach().clone()
    expected = model(BATCH.images).decoded.masks
    torch.testing.assert_close(moving(model(BATCH.images), BATCH), expected)
    torch.testing.assert_close(frozen(model(BATCH.images), BATCH), expected)
    with torch.no_grad():
        model.decoder.first.weight.add_(1)
    moving.after_step()
    torch.testing.assert_close(moving.average.decoder.first.weight, before + 0.25)
    assert torch.equal(frozen.model.decoder.first.weight, before)


def test_a_fixed_encoder_is_not_copied_and_gradients_reach_the_student_alone() -> None:
    model = model_of()
    model.encoder.requires_grad_(False)
    loss = AttentionDistillation(MovingAverageTeacher())
    loss.attach(model)
    assert not [name for name in loss.state_dict() if "encoder" in name]
    loss(model(BATCH.images), BATCH).backward()
    assert model.grouping.key.weight.grad is not None
    assert model.decoder.first.weight.grad is None


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="gives its attention"):
        AttentionDistillation(Given(torch.rand(2, 4, *GRID)))(output_of(None), BATCH)
    with pytest.raises(ValueError, match="no more slots"):
        AttentionDistillation(Given(torch.rand(2, 5, *GRID)))(output_of(torch.rand(2, 4, *GRID)), BATCH)
    with pytest.raises(ValueError, match="attach"):
        MovingAverageTeacher()(output_of(torch.rand(2, 4, *GRID)), BATCH)
    with pytest.raises(ValueError, match="momentum"):
        MovingAverageTeacher(1.5)
    assert isinstance(FrozenTeacher(nn.Identity()).train(), FrozenTeacher)
