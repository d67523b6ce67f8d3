"""The attention-refining kernel: its range, its borders, that it is a blur of keys, and that it learns."""

from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Features
from ocl.slots.attention import SlotAttention
from ocl.slots.refining import AttentionRefiningKernel

Border = Literal["zero", "reflect", "normalised"]
Normalisation = Literal["softmax", "linear", "free"]


def on_maps(kernel: nn.Module, maps: Tensor) -> Tensor:
    """maps (B K h w) through a kernel that works on tokens (B N K)."""
    smooth: Tensor = kernel(maps.flatten(2).mT, tuple(maps.shape[-2:]))
    return smooth.mT.unflatten(-1, maps.shape[-2:])


def delta(size: int) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


@pytest.mark.parametrize("border", ["zero", "reflect"])
@pytest.mark.parametrize("normalisation", ["linear", "free"])
def test_a_centre_delta_is_the_identity(normalisation: Normalisation, border: Border) -> None:
    kernel = AttentionRefiningKernel(5, normalisation, border)
    kernel.weight.data.copy_(delta(5))
    maps = torch.randn(2, 3, 6, 9)
    assert torch.equal(on_maps(kernel, maps), maps)


@pytest.mark.parametrize(("size", "centre", "beside"), [(5, 0.1017, 0.0374), (3, 0.2536, 0.0933)])
def test_range_of_the_published_normalisation(size: int, centre: float, beside: float) -> None:
    """A delta becomes e / (e + n - 1) at the centre. The ends of the range are at weights that sum to zero: there one
    entry of the unit vector is g = sqrt(n / (n - 1)) above or below all others, so 1 / (1 + (n - 1) exp(-+ g))."""
    kernel, number = AttentionRefiningKernel(size).double(), size**2
    kernel.weight.data.copy_(7 * delta(size))
    assert math.isclose(kernel.kernel()[size // 2, size // 2].item(), math.e / (math.e + number - 1), rel_tol=1e-12)
    assert math.isclose(kernel.kernel()[size // 2, size // 2].item(), centre, abs_tol=5e-5)
    assert math.isclose(kernel.kernel()[0, 0].item(), beside, abs_tol=5e-5)

    gap = math.sqrt(number / (number - 1))
    lowest, highest = (1 / (1 + (number - 1) * math.exp(sign * gap)) for sign in (1, -1))
    if size == 5:
        assert (round(lowest, 4), round(highest, 4)) == (0.0148, 0.1036)
    for sign, end in ((1, highest), (-1, lowest)):
        kernel.weight.data.copy_(sign * (delta(size) - 1 / number))
        assert math.isclose(kernel.kernel()[size // 2, size // 2].item(), end, rel_tol=1e-12)
    for _ in range(500):
        kernel.weight.data.normal_().pow_(3)
        assert lowest <= kernel.kernel().min()
        assert kernel.kernel().max() <= highest


@pytest.mark.parametrize(
    ("border", "corner", "edge", "second"), [("zero", 0.36, 0.60, 0.80), ("reflect", 1, 1, 1), ("normalised", 1, 1, 1)]
)
def test_a_constant_map(border: Border, corner: float, edge: float, second: float) -> None:
    """Unchanged inside; at a border of zeros the box keeps 9, 15 and 20 of its 25 entries."""
    smooth = on_maps(AttentionRefiningKernel(5, "softmax", border), torch.full((1, 1, 9, 12), 2.0))[0, 0] / 2
    torch.testing.assert_close(smooth[2:-2, 2:-2], torch.ones(5, 8))
    assert math.isclose(smooth[0, 0].item(), corner, abs_tol=1e-6)
    assert math.isclose(smooth[0, 5].item(), edge, abs_tol=1e-6)
    assert math.isclose(smooth[1, 5].item(), second, abs_tol=1e-6)


@pytest.mark.parametrize("border", ["zero", "reflect", "normalised"])
@pytest.mark.parametrize("grid", [(8, 8), (5, 13)])
def test_smoothing_logits_is_smoothing_keys(border: Border, grid: tuple[int, int]) -> None:
    """ARK(q k^T) = q (w * k)^T everywhere, at the border too."""
    kernel = AttentionRefiningKernel(5, border=border).double()
    kernel.weight.data.uniform_(-1, 1)
    query, keys = torch.randn(2, 7, 16, dtype=torch.float64), torch.randn(2, grid[0] * grid[1], 16, dtype=torch.float64)
    logits = on_maps(kernel, (query @ keys.mT).unflatten(-1, grid)).flatten(2)
    torch.testing.assert_close(query @ kernel(keys, grid).mT, logits, rtol=0, atol=1e-12)
    single = copy.deepcopy(kernel).float()
    torch.testing.assert_close(query.float() @ single(keys.float(), grid).mT, logits.float(), rtol=0, atol=1e-5)
    if border == "zero":  # torch's own convolution of the same maps
        theirs = F.conv2d((query @ keys.mT).view(-1, 1, *grid), kernel.kernel()[None, None], padding=2)
        torch.testing.assert_close(theirs.view_as(logits), logits, rtol=0, atol=1e-12)


def test_noise_of_logits_shrinks_five_times() -> None:
    smooth = on_maps(AttentionRefiningKernel(), torch.randn(8, 7, 64, 64))[..., 2:-2, 2:-2]
    assert abs(smooth.std().item() - 0.20) < 0.005


def test_what_all_slots_share_at_a_pixel_changes_nothing() -> None:
    """One kernel for all slots keeps this invariance of the softmax; slots still permute."""
    kernel = AttentionRefiningKernel(border="zero").double()
    kernel.weight.data.normal_()
    logits, shift = torch.randn(2, 5, 8, 9, dtype=torch.float64), 10 * torch.randn(2, 1, 8, 9, dtype=torch.float64)
    for smooth in (lambda maps: maps, lambda maps: on_maps(kernel, maps)):
        torch.testing.assert_close(smooth(logits + shift).softmax(dim=1), smooth(logits).softmax(dim=1))
    module = SlotAttention(16, kernel=AttentionRefiningKernel())
    features, initial, order = Features(torch.randn(2, 72, 16), (8, 9)), torch.randn(2, 5, 16), torch.randperm(5)
    torch.testing.assert_close(
        module(features, initial[:, order]).vectors, module(features, initial).vectors[:, order], rtol=1e-5, atol=1e-5
    )


class Replacing(AttentionRefiningKernel):
    """The defect of the published code: the parameter is detached, normalised and replaced at every call."""

    def kernel(self) -> Tensor:
        self.weight = nn.Parameter(super().kernel().detach())
        return self.weight


def learns(kernel: AttentionRefiningKernel) -> bool:
    """Ten steps of Adam on a made-up task: does the very parameter that the optimiser holds move?"""
    module = SlotAttention(8, kernel=kernel)
    features, initial = Features(torch.randn(2, 42, 8), (6, 7)), torch.randn(2, 3, 8)
    before, held = kernel.weight.detach().clone(), kernel.weight
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    assert any(parameter is held for group in optimizer.param_groups for parameter in group["params"])
    for step in range(10):
        optimizer.zero_grad()
        module(features, initial).masks[:, 0].square().mean().backward()
        if step == 0 and (held.grad is None or not torch.isfinite(held.grad).all() or held.grad.abs().max() == 0):
            return False
        optimizer.step()
        total = kernel.kernel().sum().item()
        assert kernel.normalisation == "free" or math.isclose(total, 1, abs_tol=1e-6)
        assert kernel.normalisation != "softmax" or kernel.kernel().min() > 0
    return kernel.weight is held and not torch.equal(held, before)


@pytest.mark.parametrize("normalisation", ["softmax", "linear", "free"])
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_the_kernel_learns(normalisation: Normalisation, border: Border) -> None:
    assert learns(AttentionRefiningKernel(5, normalisation, border))


def test_a_kernel_that_is_replaced_does_not_learn_and_becomes_the_box() -> None:
    assert not learns(Replacing())
    kernel = Replacing()
    kernel.weight.data.uniform_(-0.2, 0.2)
    for _ in range(9):  # three batches at T = 3
        kernel.kernel()
    assert (kernel.weight - 1 / 25).abs().max() < 1e-6


def test_a_fixed_box_is_the_mean_filter() -> None:
    kernel = AttentionRefiningKernel(trainable=False)
    maps = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(on_maps(kernel, maps), F.avg_pool2d(maps, 5, stride=1, padding=2))
    assert not [parameter for parameter in kernel.parameters() if parameter.requires_grad]
    for normalisation in ("softmax", "linear", "free"):  # every kernel starts there
        start = AttentionRefiningKernel(3, normalisation).kernel()  # type: ignore[arg-type]
        torch.testing.assert_close(start, torch.full((3, 3), 1 / 9))


def test_gradient_of_the_kernel_against_finite_differences() -> None:
    for normalisation, border in (("softmax", "normalised"), ("linear", "reflect"), ("free", "zero")):
        kernel = AttentionRefiningKernel(3, normalisation, border).double()  # type: ignore[arg-type]
        tokens = torch.randn(2, 12, 2, dtype=torch.float64, requires_grad=True)

        def smooth(weight: Tensor, tokens: Tensor, kernel: nn.Module = kernel) -> Tensor:
            found: Tensor = torch.func.functional_call(kernel, {"weight": weight}, (tokens, (3, 4)))
            return found

        weight = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(smooth, (weight, tokens))


def test_what_a_kernel_cannot_do_is_named() -> None:
    with pytest.raises(ValueError, match="odd"):
        AttentionRefiningKernel(4)
    with pytest.raises(ValueError, match="normalisation must be"):
        AttentionRefiningKernel(normalisation="box")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="border must be"):
        AttentionRefiningKernel(border="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sums of weights"):
        AttentionRefiningKernel(normalisation="free", border="normalised")
    with pytest.raises(ValueError, match="grid above 2 x 2 for a kernel of 5, got 2 x 9"):
        AttentionRefiningKernel(border="reflect")(torch.randn(1, 18, 4), (2, 9))
    for border in ("zero", "normalised"):  # one token is enough
        found = AttentionRefiningKernel(border=border)(torch.ones(1, 1, 4), (1, 1))  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.full((1, 1, 4), 0.04 if border == "zero" else 1.0))
