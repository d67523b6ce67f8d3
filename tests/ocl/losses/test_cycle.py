"""Cycle losses against closed forms, a plain transcription with whole matrices, and the configurations they rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ocl.losses import neighbours
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.cycle_aims import Diagonal, PositiveSet, SoftTarget
from ocl.losses.walks import SlotProjection, Walk
from ocl.shapes import Batch, Decoded, Features, Output, Slots

N_PER_OBJECT = 16
NO_BATCH = Batch(torch.zeros(1, 3, 2, 2))
AXES = torch.eye(16, dtype=torch.float64)


def output_of(slots: Tensor, tokens: Tensor, grid: tuple[int, int] | None = None) -> Output:
    """Slots (B K D), tokens (B N D) and the attention of their cosines at 0.1."""
    grid = grid or (1, tokens.shape[1])
    attention = torch.zeros(*slots.shape[:2], *grid, dtype=slots.dtype)
    if slots.shape[-1] == tokens.shape[-1]:
        logits = functional.normalize(slots, dim=-1) @ functional.normalize(tokens, dim=-1).mT / 0.1
        attention = logits.softmax(dim=1).unflatten(-1, grid).detach()
    features = Features(tokens, grid)
    nothing = Decoded(torch.zeros(len(slots), 3, 1, 1), attention)
    return Output(features, features, slots, Slots.of(slots, attention), nothing)


def plain(output: Output, tau: float = 0.1, cosine: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A (B K N), B (B N K), P and F as the equations say, whole."""
    slots, tokens = output.slots.vectors, output.tokens.tokens
    if cosine:
        slots, tokens = slots / slots.norm(dim=-1, keepdim=True), tokens / tokens.norm(dim=-1, keepdim=True)
    similarity = torch.einsum("bkd,bnd->bkn", slots, tokens)
    there = torch.softmax(similarity / tau, dim=2)
    back = torch.softmax(similarity.mT / tau, dim=2)
    return there, back, there @ back, back @ there


def mean_diagonal(logarithms: Tensor) -> Tensor:
    return -logarithms.diagonal(dim1=1, dim2=2).mean()


def plain_sets(output: Output, theta: float) -> Tensor:
    """(B N N) bool: cosine above theta, or the same feature."""
    tokens = functional.normalize(output.tokens.tokens.detach(), dim=-1)
    own = torch.eye(tokens.shape[1], dtype=torch.bool)
    return (tokens @ tokens.mT > theta) | own


def plain_soft_target(output: Output, theta: float, tau: float) -> Tensor:
    tokens = functional.normalize(output.tokens.tokens.detach(), dim=-1)
    logits = (tokens @ tokens.mT / tau).masked_fill(~plain_sets(output, theta), -math.inf)
    return -(logits.softmax(dim=2) * plain(output)[3].log()).sum(dim=2).mean()


Loss = Callable[[Output, Batch], Tensor]
TRANSCRIPTIONS: dict[str, tuple[Loss, Callable[[Output], Tensor]]] = {
    "nll": (SlotFeatureSlot(), lambda o: mean_diagonal(plain(o)[2].log())),
    "softmax2": (
        SlotFeatureSlot(second_temperature=0.7),
        lambda o: mean_diagonal((plain(o)[2] / 0.7).log_softmax(dim=2)),
    ),
    "dot product": (
        SlotFeatureSlot(Walk(temperature=2.0, cosine=False)),
        lambda o: mean_diagonal(plain(o, 2.0, False)[2].log()),
    ),
    "diagonal": (FeatureSlotFeature(Diagonal()), lambda o: mean_diagonal(plain(o)[3].log())),
    "diagonal, softmax2": (
        FeatureSlotFeature(Diagonal(second_temperature=0.7)),
        lambda o: mean_diagonal((plain(o)[3] / 0.7).log_softmax(dim=2)),
    ),
    "positive set": (
        FeatureSlotFeature(PositiveSet(0.3)),
        lambda o: -(plain(o)[3] * plain_sets(o, 0.3)).sum(dim=2).log().mean(),
    ),
    "soft target": (FeatureSlotFeature(SoftTarget(0.3, 0.2)), lambda o: plain_soft_target(o, 0.3, 0.2)),
}


@pytest.mark.parametrize("name", TRANSCRIPTIONS)
@pytest.mark.parametrize(("block", "kept"), [(2**22, 2**22), (3 * 40 * 16, 2**22), (3 * 40 * 16, 0)])
def test_equals_whole_matrices_forward_and_gradients(
    name: str, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one block, and in blocks of 16 rows that do not divide the 40 features, kept or built again."""
    monkeypatch.setattr(neighbours, "CPU_BLOCK", block)
    monkeypatch.setattr(neighbours, "CPU_KEPT", kept)
    loss, transcription = TRANSCRIPTIONS[name]
    slots = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(3, 40, 8, dtype=torch.float64, requires_grad=True)
    output = output_of(slots, tokens, (5, 8))
    found, expected = loss(output, NO_BATCH), transcription(output)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(found, [slots, tokens])
    theirs = torch.autograd.grad(expected, [slots, tokens])
    for mine, plain_gradient in zip(ours, theirs, strict=True):
        assert plain_gradient.norm() > 1e-3
        torch.testing.assert_close(mine, plain_gradient, rtol=1e-8, atol=1e-10)


CLOSED = {  # (K, tau): -log P_ii to the digits stated
    (4, 1.0): 1.146584,
    (4, 0.5): 0.628015,
    (4, 0.2): 0.0398883,
    (4, 0.1): 2.72375e-4,
    (4, 0.05): 1.2e-8,
    (7, 1.0): 1.7364,
    (7, 0.5): 1.0846,
    (7, 0.1): 0.0005,
    (7, 0.05): 0.0000,
}


@pytest.mark.parametrize("tau", [1.0, 0.5, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("count", [2, 4, 7])
def test_orthonormal_prototypes_have_a_closed_form(count: int, tau: float) -> None:
    """P_ii = F mass of the own object = p^2 + (1 - p)^2 / (K - 1), p = 1 / (1 + (K - 1) exp(-1 / tau))."""
    p = 1 / (1 + (count - 1) * math.exp(-1 / tau))
    returned = p**2 + (1 - p) ** 2 / (count - 1)
    output = output_of(AXES[None, :count], AXES[:count].repeat_interleave(N_PER_OBJECT, 0)[None])
    walk = Walk(tau)
    second = math.log(1 + (count - 1) * math.exp((1 - returned) / (count - 1) - returned))
    expected = {
        SlotFeatureSlot(walk): -math.log(returned),
        SlotFeatureSlot(walk, second_temperature=1.0): second,
        FeatureSlotFeature(PositiveSet(), walk): -math.log(returned),
        FeatureSlotFeature(Diagonal(), walk): -math.log(returned / N_PER_OBJECT),
    }
    for loss, value in expected.items():
        assert loss(output, NO_BATCH).item() == pytest.approx(value, abs=1e-10)
    if (stated := CLOSED.get((count, tau))) is not None:
        digits = 5e-5 if count == 7 else 5e-7 if tau >= 0.5 else 5e-8 if tau == 0.2 else 5e-10
        assert -math.log(returned) == pytest.approx(stated, abs=digits)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def cases() -> dict[str, tuple[Output, tuple[float, float, float, float]]]:
    """Four objects of 16 features; SFS nll, SFS softmax2, FSF positive set, FSF diagonal at tau 0.1, theta 0.8.

    In the last two one object has two halves of mutual cosine 0.85: the fifth slot idles, or takes a half.
    """
    tokens = AXES[:4].repeat_interleave(N_PER_OBJECT, 0)
    one, other = AXES[3], 0.85 * AXES[3] + math.sqrt(1 - 0.85**2) * AXES[4]
    halves = torch.cat([tokens[:48], one.expand(8, 16), other.expand(8, 16)])
    idle = AXES[8]
    merged = torch.stack([AXES[0], AXES[1], unit(AXES[2] + AXES[3]), idle])
    configurations = {
        "ideal": (AXES[:4], tokens, (0.0003, 0.7439, 0.0003, 2.7729)),
        "identical": (AXES[:4].sum(0).expand(4, 16), tokens, (1.3863, 1.3863, 1.3863, 4.1589)),
        "duplicate": (AXES[[0, 1, 2, 2]], tokens, (0.3468, 0.9556, 2.5002, 5.2728)),
        "merged": (merged, tokens, (1.9296, 0.9713, 0.3482, 3.1208)),
        "fifth idle": (
            torch.stack([*AXES[:3], unit(one + other), idle]),
            halves,
            (1.9783, 1.0869, 0.0003, 2.7729),
        ),
        "split": (torch.stack([*AXES[:3], one, other]), halves, (0.1420, 1.0027, 0.0003, 2.6882)),
    }
    return {name: (output_of(s[None], t[None]), values) for name, (s, t, values) in configurations.items()}


def test_the_configurations_cost_what_is_known_in_the_known_order() -> None:
    losses: list[Loss] = [
        SlotFeatureSlot(),
        SlotFeatureSlot(second_temperature=1.0),
        FeatureSlotFeature(PositiveSet(0.8)),
        FeatureSlotFeature(Diagonal()),
    ]
    cost = {}
    for name, (output, values) in cases().items():
        cost[name] = [loss(output, NO_BATCH).item() for loss in losses]
        assert cost[name] == pytest.approx(values, abs=1e-4)
    slot, _, feature, _ = range(4)
    assert cost["ideal"][slot] < cost["duplicate"][slot] < cost["merged"][slot]  # idle slots cost more than duplicates
    assert cost["ideal"][feature] < cost["merged"][feature] < cost["duplicate"][feature]  # lost objects cost most
    assert cost["split"][slot] < cost["fifth idle"][slot]  # splitting is rewarded


def test_counting_active_slots_only_makes_an_idle_slot_free() -> None:
    output, _ = cases()["fifth idle"]
    assert SlotFeatureSlot()(output, NO_BATCH).item() == pytest.approx(1.9783, abs=1e-4)
    assert SlotFeatureSlot(Walk(active_only=True))(output, NO_BATCH).item() == pytest.approx(0.0003, abs=5e-5)


def test_slots_and_tokens_of_unequal_width_need_an_embedding() -> None:
    output = output_of(torch.randn(2, 3, 6), torch.randn(2, 20, 8))
    with pytest.raises(ValueError, match="slots are 6 wide and tokens 8; give the walk an embedding"):
        SlotFeatureSlot()(output, NO_BATCH)
    projection = SlotProjection(6, 8)
    SlotFeatureSlot(Walk(embedding=projection))(output, NO_BATCH).backward()
    assert projection.linear.weight.grad is not None
    assert projection.linear.weight.grad.norm() > 0


EVERY = {name: loss for name, (loss, _) in TRANSCRIPTIONS.items()}


@pytest.mark.parametrize("name", EVERY)
def test_slots_and_features_may_come_in_any_order(name: str) -> None:
    slots, tokens = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 30, 8, dtype=torch.float64)
    loss = EVERY[name](output_of(slots, tokens, (5, 6)), NO_BATCH)
    shuffled = output_of(slots[:, torch.randperm(5)], tokens[:, torch.randperm(30)], (3, 10))
    torch.testing.assert_close(EVERY[name](shuffled, NO_BATCH), loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [4, 7, 11])
def test_the_second_softmax_is_bounded(count: int) -> None:
    """log(e + K - 1) - 1 for the identity, log K for equal slots, log(e + K - 1) where no walk returns."""
    loss = SlotFeatureSlot(second_temperature=1.0)
    ideal = output_of(AXES[None, :count], AXES[None, :count].repeat(1, 4, 1))
    equal = output_of(torch.ones(1, count, 16, dtype=torch.float64), AXES[None, :count])
    least = math.log(math.e + count - 1) - 1
    stated = {4: 0.7437, 7: 1.1654, 11: 1.5430}[count]
    assert least == pytest.approx(stated, abs=5e-5)
    assert loss(ideal, NO_BATCH).item() == pytest.approx(least, abs=1e-3)
    assert loss(ideal, NO_BATCH).item() > least
    assert loss(equal, NO_BATCH).item() == pytest.approx(math.log(count), abs=1e-12)
    assert SlotFeatureSlot()(equal, NO_BATCH).item() == pytest.approx(math.log(count), abs=1e-12)
    for _ in range(20):
        drawn = loss(output_of(torch.randn(1, count, 16), torch.randn(1, 20, 16)), NO_BATCH).item()
        assert least < drawn < least + 1


def test_the_second_softmax_over_1024_features_is_bounded() -> None:
    tokens = torch.randn(1, 1024, 32)
    loss = FeatureSlotFeature(Diagonal(second_temperature=1.0))
    assert 5.9331 < loss(output_of(torch.randn(1, 7, 32), tokens), NO_BATCH).item() < 6.9332
    equal = output_of(torch.ones(1, 7, 32), torch.ones(1, 1024, 32))
    assert loss(equal, NO_BATCH).item() == pytest.approx(6.9315, abs=1e-4)


def test_where_all_features_are_alike_there_is_nothing_to_learn() -> None:
    slots = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)
    loss = FeatureSlotFeature(PositiveSet(threshold=-1.5))(output_of(slots, tokens), NO_BATCH)
    assert loss.abs() < 1e-14
    for gradient in torch.autograd.grad(loss, [slots, tokens]):
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("aim", [PositiveSet(threshold=1.1), SoftTarget(threshold=1.1)])
def test_where_no_other_feature_is_alike_only_the_diagonal_is_left(aim: PositiveSet | SoftTarget) -> None:
    output = output_of(torch.randn(2, 4, 8, dtype=torch.float64), torch.randn(2, 30, 8, dtype=torch.float64))
    expected = FeatureSlotFeature(Diagonal())(output, NO_BATCH)
    torch.testing.assert_close(FeatureSlotFeature(aim)(output, NO_BATCH), expected, rtol=1e-12, atol=1e-12)


def test_equal_features_make_the_diagonal_the_positive_set_plus_log_n() -> None:
    """The same gradient too: the two differ only where features vary inside an object."""
    slots = torch.randn(1, 4, 16, dtype=torch.float64, requires_grad=True)
    output = output_of(slots, AXES[None, :4].repeat_interleave(N_PER_OBJECT, 1))
    own, alike = (FeatureSlotFeature(aim)(output, NO_BATCH) for aim in (Diagonal(), PositiveSet()))
    assert (own - alike).item() == pytest.approx(math.log(N_PER_OBJECT), abs=1e-12)
    (of_own,), (of_alike,) = torch.autograd.grad(own, [slots]), torch.autograd.grad(alike, [slots])
    torch.testing.assert_close(of_own, of_alike, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_a_single_feature_and_a_single_slot_return_surely(name: str) -> None:
    slots = torch.randn(2, 1, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, 1, 8, dtype=torch.float64, requires_grad=True)
    loss = EVERY[name](output_of(slots, tokens), NO_BATCH)
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert all(gradient.abs().max() < 1e-14 for gradient in torch.autograd.grad(loss, [slots, tokens]))


@pytest.mark.parametrize("name", EVERY)
def test_an_image_without_slots_does_not_count(name: str) -> None:
    slots = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(3, 12, 8, dtype=torch.float64, requires_grad=True)
    output = output_of(slots, tokens, (3, 4))
    output.slots.valid[1] = False
    loss = EVERY[name](output, NO_BATCH)
    rest = EVERY[name](output_of(slots[[0, 2]], tokens[[0, 2]], (3, 4)), NO_BATCH)
    torch.testing.assert_close(loss, rest, rtol=1e-12, atol=1e-12)
    for gradient in torch.autograd.grad(loss, [slots, tokens]):
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()
        assert gradient[0].norm() > 0
    output.slots.valid[:] = False
    assert EVERY[name](output, NO_BATCH).item() == 0


LARGE = {  # every loss but the plain dot product, whose size knows no bound
    "nll": SlotFeatureSlot(Walk(0.05)),
    "softmax2": SlotFeatureSlot(Walk(0.05), second_temperature=1.0),
    "diagonal": FeatureSlotFeature(Diagonal(), Walk(0.05)),
    "diagonal, softmax2": FeatureSlotFeature(Diagonal(1.0), Walk(0.05)),
    "positive set": FeatureSlotFeature(PositiveSet(), Walk(0.05)),
    "soft target": FeatureSlotFeature(SoftTarget(), Walk(0.05)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LARGE)
def test_half_precision_computes_in_float32(name: str, dtype: torch.dtype) -> None:
    """4096 features at tau 0.05: the same loss as in float32 from the same rounded vectors, and finite gradients, which
    a scaled loss (as in any float16 training) keeps above the least half."""
    centres = torch.randn(1, 5, 16)
    tokens = (centres.repeat_interleave(820, dim=1)[:, :4096] + 0.3 * torch.randn(1, 4096, 16)).to(dtype)
    slots = centres.to(dtype)
    expected = LARGE[name](output_of(slots.float(), tokens.float(), (64, 64)), NO_BATCH)
    slots, tokens = slots.requires_grad_(), tokens.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = LARGE[name](output_of(slots, tokens, (64, 64)), NO_BATCH)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    for gradient in torch.autograd.grad(2.0**16 * loss, [slots, tokens]):
        assert gradient.isfinite().all()
        assert gradient.norm() > 0


def test_far_apart_dot_products_stay_finite() -> None:
    slots, tokens = 100 * torch.randn(2, 4, 16), 100 * torch.randn(2, 64, 16)
    slots, tokens = slots.requires_grad_(), tokens.requires_grad_()
    for aim in (PositiveSet(), SoftTarget(), Diagonal(), Diagonal(1.0)):
        loss = FeatureSlotFeature(aim, Walk(cosine=False))(output_of(slots, tokens), NO_BATCH)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, [slots, tokens]))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("name", LARGE)
def test_4096_features_are_never_paired_as_a_whole(name: str) -> None:
    """Batch 8: 134 million pairs. No tensor holds more than 2^19 numbers; saved are a few (B K N) and (B N D)."""
    images, count, number, dim = 8, 4, 4096, 8
    slots, tokens = torch.randn(images, count, dim), torch.randn(images, number, dim)
    slots, tokens = slots.requires_grad_(), tokens.requires_grad_()
    output = output_of(slots, tokens, (64, 64))
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = LARGE[name](output, NO_BATCH)
        held = sum(saved.values())
        loss.backward()
    assert tokens.grad is not None
    assert tokens.grad.norm() > 0
    assert largest.elements <= neighbours.CPU_BLOCK
    assert held < 4 * images * number * (10 * count + 2 * dim)


@pytest.mark.parametrize("name", EVERY)
def test_compiles_without_graph_breaks_and_agrees(name: str) -> None:
    slots, tokens = torch.randn(2, 4, 8), torch.randn(2, 30, 8)
    masks = torch.full((2, 4, 5, 6), 0.25)

    def step(slots: Tensor, tokens: Tensor) -> Tensor:
        features = Features(tokens, (5, 6))
        output = Output(features, features, slots, Slots.of(slots, masks), Decoded(masks, masks))
        loss: Tensor = EVERY[name](output, NO_BATCH)
        return loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for run in (step, compiled):
        inputs = [slots.clone().requires_grad_(), tokens.clone().requires_grad_()]
        loss = run(*inputs)
        gradients = torch.autograd.grad(loss, inputs)
        if run is step:
            expected = [loss, *gradients]
    for found, value in zip([loss, *gradients], expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_bad_arguments_are_named() -> None:
    for build in (SlotFeatureSlot, Diagonal):
        with pytest.raises(ValueError, match="second_temperature must be positive, got 0"):
            build(second_temperature=0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        SoftTarget(temperature=-1)
