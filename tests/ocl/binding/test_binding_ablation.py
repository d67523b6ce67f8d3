"""Only the binding subspace changes, by as much as said, and a model's later blocks read the change."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ocl.binding.ablation import Change, Inject, NormMatched, Shuffle, ablated
from ocl.binding.fitting import fit
from ocl.binding.measures import pair_measures
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.probes import Quadratic
from ocl.binding.subspace import random_subspace, top_subspace

B, N, D, R = 3, 20, 32, 5


def parts(tokens: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Inside the subspace, in its coordinates (B N r), and outside of it (B N D)."""
    inside = tokens @ basis
    return inside, tokens - inside @ basis.mT


def rows(coordinates: Tensor) -> Tensor:
    """Each image's rows in the order of their first number."""
    return coordinates.take_along_dim(coordinates[..., :1].argsort(1), dim=1)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_shuffling_permutes_rows_of_the_subspace_and_nothing_else(ratio: float) -> None:
    tokens, basis = torch.randn(B, N, D), random_subspace(D, R)
    changed = Shuffle(basis, ratio, torch.Generator().manual_seed(0))(tokens)
    (before, outside), (after, outside_after) = parts(tokens, basis), parts(changed, basis)
    torch.testing.assert_close(outside_after, outside, rtol=0, atol=1e-5)
    torch.testing.assert_close(rows(after), rows(before), rtol=0, atol=1e-5)
    moved = ((after - before).abs().amax(-1) > 1e-4).sum(1)
    assert (moved <= round(ratio * N)).all()
    assert (moved >= round(ratio * N) - 4).all()  # fixed points of a random permutation: one is expected
    if ratio == 0:
        torch.testing.assert_close(changed, tokens, rtol=0, atol=1e-6)


def test_shuffles_are_uniform_and_differ_from_call_to_call() -> None:
    tokens, basis = torch.arange(4.0).view(1, 4, 1).expand(20_000, 4, 1).clone(), torch.eye(1)
    shuffle = Shuffle(basis, 1.0, torch.Generator().manual_seed(0))
    first, second = shuffle(tokens), shuffle(tokens)
    assert not torch.equal(first, second)
    orders = (first[..., 0].round().long() * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = orders.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 20_000 / 24).abs() < 5 * (20_000 / 24) ** 0.5).all()
    half = Shuffle(basis, 0.5, torch.Generator().manual_seed(0))(tokens)[..., 0]
    assert (((half.round() != tokens[..., 0]).sum(1)) <= 2).all()


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0])
def test_injection_moves_towards_the_mean_of_the_object(amount: float) -> None:
    tokens, basis, objects = torch.randn(B, N, D), random_subspace(D, R), torch.randint(-1, 4, (B, N))
    changed = Inject(basis, objects, amount)(tokens)
    (before, outside), (after, outside_after) = parts(tokens, basis), parts(changed, basis)
    torch.testing.assert_close(outside_after, outside, rtol=0, atol=1e-5)
    if amount == 1:
        torch.testing.assert_close(changed, tokens, rtol=0, atol=1e-6)
    for image in range(B):
        for patch in range(N):
            own = before[image, patch]
            mean = before[image][objects[image] == objects[image, patch]].mean(0)
            expected = own if objects[image, patch] < 0 else (1 - amount) * mean + amount * own
            torch.testing.assert_close(after[image, patch], expected, rtol=0, atol=1e-5)


def test_norm_matched_control_moves_as_far() -> None:
    tokens, basis = torch.randn(B, N, D), random_subspace(D, R)
    change = Inject(basis, torch.randint(4, (B, N)), 0.0)
    moved = NormMatched(change)(tokens) - tokens
    torch.testing.assert_close(moved.norm(dim=-1), (change(tokens) - tokens).norm(dim=-1), rtol=1e-4, atol=1e-5)
    share = (moved @ basis).square().sum() / moved.square().sum()
    assert abs(share - R / D) < 0.08


def test_halves_stay_halves() -> None:
    tokens, basis = torch.randn(B, N, D).half(), random_subspace(D, R)
    for change in (Shuffle(basis), Inject(basis, torch.zeros(B, N, dtype=torch.int64), 0.0)):
        assert change(tokens).dtype == NormMatched(change)(tokens).dtype == torch.float16


def changed_accuracy(probe: Quadratic, test: Patches, change: Change) -> float:
    tokens = change(test.tokens[0])[None]
    with torch.no_grad():
        found = pair_measures(probe(tokens), test.same, distinct_pairs(test))
    return float(found["accuracy"].values.mean())


@pytest.mark.parametrize(("rank", "held"), [(8, 0.87), (16, 0.96)])
def test_shuffling_the_top_subspace_hurts_and_a_random_one_much_less(toy: Any, rank: int, held: float) -> None:
    training, test = toy.rotated
    settings: dict[str, Any] = {"epochs": 40, "lr": 1e-2, "decay_every": None}
    probe = Quadratic(64)
    fit(probe, training, **settings)
    top, generator = top_subspace(probe.form(), rank), torch.Generator().manual_seed(1)
    assert abs(float(top.held[0]) - held) <= 0.02
    basis = top.basis[0]
    intact = changed_accuracy(probe, test, lambda tokens: tokens)
    assert abs(intact - 0.935) <= 0.02
    shuffled = [changed_accuracy(probe, test, Shuffle(basis, ratio, generator)) for ratio in (0.25, 0.5, 0.75, 1.0)]
    assert intact > shuffled[0] > shuffled[1] > shuffled[2] > shuffled[3]
    full = Shuffle(basis, 1.0, generator)
    random = changed_accuracy(probe, test, Shuffle(random_subspace(64, rank, generator), 1.0, generator))
    matched = changed_accuracy(probe, test, NormMatched(full, generator))
    assert min(random, matched) > shuffled[3] + 0.15
    mixed = changed_accuracy(probe, test, Inject(basis, test.objects, 0.5))
    means = changed_accuracy(probe, test, Inject(basis, test.objects, 0.0))
    assert means >= mixed > intact
    retrained = Quadratic(64)
    fit(retrained, Patches(full(training.tokens[0])[None], training.objects), **settings)
    again = changed_accuracy(retrained, test, full)
    assert shuffled[3] < again <= intact - 0.05


def small_vit(**options: Any) -> nn.Module:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=3, num_classes=0, **options)
    return vit.eval()


@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_later_blocks_read_the_change_and_prefix_tokens_do_not_show_it(registers: int) -> None:
    vit: Any = small_vit(reg_tokens=registers)
    prefix, images = 1 + registers, torch.rand(2, 3, 32, 48)

    def outputs() -> list[Tensor]:
        found: list[Tensor] = vit.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
        return found

    def sequence() -> list[Tensor]:
        """All tokens after every block, by running the blocks one by one."""
        tokens = vit._pos_embed(vit.patch_embed(images))
        found = []
        for block in vit.blocks:
            tokens = block(tokens)
            found.append(tokens)
        return found

    whole, before = sequence(), outputs()
    change = Inject(random_subspace(192, 16), torch.zeros(2, 6, dtype=torch.int64), 0.0)
    with ablated(vit, 1, change):
        after, whole_after = outputs(), sequence()
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1], change(before[1]), rtol=0, atol=1e-5)
    assert torch.equal(whole_after[1][:, :prefix], whole[1][:, :prefix])
    by_hand = vit.blocks[2](torch.cat([whole[1][:, :prefix], change(whole[1][:, prefix:])], dim=1))
    torch.testing.assert_close(after[2], by_hand[:, prefix:], rtol=0, atol=1e-5)
    assert (after[2] - before[2]).abs().max() > 0.01
    assert all(torch.equal(one, two) for one, two in zip(outputs(), before, strict=True))


def test_the_hook_is_gone_whatever_happens() -> None:
    vit: Any = small_vit()

    def broken(tokens: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), ablated(vit, -1, broken):
        vit(torch.rand(1, 3, 32, 48))
    assert vit(torch.rand(1, 3, 32, 48)).shape == (1, 192)
    with pytest.raises(ValueError, match="blocks 0 to 2, got layer 3"), ablated(vit, 3, broken):
        pass
    with pytest.raises(ValueError, match="Linear is not a timm ViT"), ablated(nn.Linear(1, 1), 0, broken):
        pass
    cait = timm.create_model("cait_xxs24_224", img_size=32, num_classes=0)
    with pytest.raises(ValueError, match="Cait is not a timm ViT"), ablated(cait, 0, broken):
        pass


@torch.no_grad()
def test_compiled_models_read_the_change_too() -> None:
    vit: Any = small_vit()
    compiled: Any = torch.compile(vit, backend="eager")
    images = torch.rand(2, 3, 32, 48)
    before = compiled(images)
    change = Inject(random_subspace(192, 16), torch.zeros(2, 6, dtype=torch.int64), 0.0)
    for model in (vit, compiled):
        with ablated(model, 0, change):
            torch.testing.assert_close(compiled(images), vit(images))
            assert (compiled(images) - before).abs().max() > 0.01
    assert torch.equal(compiled(images), before)


def test_what_is_no_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="orthonormal columns"):
        Shuffle(torch.randn(D, R))
    with pytest.raises(ValueError, match=r"ratio .* in \[0, 1\], got 1.5"):
        Shuffle(random_subspace(D, R), 1.5)
    with pytest.raises(ValueError, match=r"amount .* in \[0, 1\], got -0.1"):
        Inject(random_subspace(D, R), torch.zeros(B, N), -0.1)
    with pytest.raises(ValueError, match="are not those of tokens"):
        Inject(random_subspace(D, R), torch.zeros(B, N), 0.5)(torch.randn(B, N + 1, D))
