"""Attention-refining kernel of SLASH (Kim et al. 2023, arXiv 2303.17842): smooth logits, fewer stray pixels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionRefiningKernel(nn.Module):
    """One small kernel w (size size), shared by all slots, through which attention logits pass before the softmax.

        l~_k(x) = sum over u of w(u) l_k(x + u)

    Logits are linear in the normalised tokens, l = Q X^^T, so smoothing them is smoothing the tokens that logits are
    made of: l~ = Q (w * X^)^T, exactly, for every border below. That is done once per image instead of T K times;
    what slots pool stays unsmoothed.

    The kernel starts as the box, all entries 1 / size^2, and is learned. The published code detaches and replaces its
    parameter at every call, so that nothing is learned and the kernel turns into that box within three batches:
    `trainable=False` is what was run, the default is what was described.

    Args:
        size: edge of the kernel, odd.
        normalisation: of the raw weights. "softmax", as published: v = w / ||w||, then a softmax over all entries;
            they sum to one and at size 5 stay within [0.0148, 0.1036], so the kernel never gets far from the box.
            "linear", the published alternative: w / sum w. "free": the raw weights, which can become any kernel.
        border: what lies outside the grid. "zero", as published: nothing, so that logits shrink to 0.36 of themselves
            in the corners (box of 5). "reflect": its mirror image. "normalised": nothing, and the weights inside are
            divided by their sum; needs "softmax", whose weights are positive. The last two are not the paper's.
        trainable: False leaves the box as it is.
    """

    def __init__(
        self,
        size: int = 5,
        normalisation: Literal["softmax", "linear", "free"] = "softmax",
        border: Literal["zero", "reflect", "normalised"] = "zero",
        trainable: bool = True,
    ) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size of an attention-refining kernel must be odd and positive, got {size}.")
        if normalisation not in ("softmax", "linear", "free"):
            raise ValueError(f"normalisation must be softmax, linear or free, got {normalisation!r}.")
        if border not in ("zero", "reflect", "normalised"):
            raise ValueError(f"border must be zero, reflect or normalised, got {border!r}.")
        if border == "normalised" and normalisation != "softmax":
            raise ValueError(f"border normalised divides by sums of weights, which {normalisation} may bring to zero.")
        self.size, self.normalisation, self.border = size, normalisation, border
        self.weight = nn.Parameter(torch.full((size, size), 1 / size**2), requires_grad=trainable)

    def kernel(self) -> Tensor:
        """(size size): the normalised weights."""
        if self.normalisation == "free":
            return self.weight
        if self.normalisation == "linear":
            return self.weight / self.weight.sum()
        direction: Tensor = self.weight / self.weight.norm()
        return direction.flatten().softmax(0).view_as(direction)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """tokens (B N F) in raster order of `grid` (h, w) -> w * tokens (B N F)."""
        kernel, pad = self.kernel().to(tokens.dtype), self.size // 2
        maps = tokens.unflatten(1, grid).movedim(-1, 1)  # (B F h w), channels last in memory
        if self.border == "reflect":
            if min(grid) <= pad:
                raise ValueError(
                    f"border reflect needs a grid above {pad} x {pad} for a kernel of {self.size}, "
                    f"got {grid[0]} x {grid[1]}; use zero or normalised."
                )
            maps = F.pad(maps, (pad, pad, pad, pad), mode="reflect")
        around = 0 if self.border == "reflect" else pad
        smooth = F.conv2d(maps, kernel.expand(maps.shape[1], 1, -1, -1), padding=around, groups=maps.shape[1])
        if self.border == "normalised":
            smooth = smooth / F.conv2d(tokens.new_ones(1, 1, *grid), kernel[None, None], padding=pad)
        return smooth.movedim(1, -1).flatten(1, 2)
