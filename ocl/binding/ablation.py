"""Change the binding part of tokens and nothing else: shuffle it over patches, replace it by its mean over the object.

With U an orthonormal basis (D r) of the binding subspace and P = U U^T, tokens are h = hP + h(I - P). The paper works
with h W of a probe's factor, which cannot be taken out of h since W is no projection; how it takes it out is not said.
P is, and whatever is orthogonal to the subspace stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ocl.shapes import IGNORE

Change = Callable[[Tensor], Tensor]
"""Patch tokens (B N D) -> changed patch tokens (B N D)."""


class Shuffle:
    """h - hP + (hP)[permutation] for a random share of the patches of each image: "uninformed" in the paper.

    Args:
        basis: U (D r), orthonormal.
        ratio: share of patches that are permuted among themselves, rounded to whole patches. 0 changes nothing.
        generator: of the patches and their permutation, on the CPU; draws go on from call to call.
    """

    def __init__(self, basis: Tensor, ratio: float = 1.0, generator: torch.Generator | None = None) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"The ratio of patches to shuffle must be in [0, 1], got {ratio}.")
        self.basis, self.ratio, self.generator = orthonormal(basis), ratio, generator

    def __call__(self, tokens: Tensor) -> Tensor:
        images, patches, _ = tokens.shape
        drawn = torch.rand(images, patches, generator=self.generator).argsort(1)[:, : round(self.ratio * patches)]
        # a random choice in random order, given to the same choice in raster order: a uniform permutation of it
        source = torch.arange(patches).repeat(images, 1).scatter_(1, drawn.sort(1).values, drawn).to(tokens.device)
        coordinates = tokens.float() @ self.basis.to(tokens.device)  # (B N r)
        moved = coordinates.take_along_dim(source[..., None], 1) - coordinates
        return tokens + (moved @ self.basis.to(tokens.device).mT).to(tokens.dtype)


class Inject:
    """h - hP + (1 - a) mean of hP over the patch's object + a hP: "informed" in the paper.

    Args:
        basis: U (D r), orthonormal.
        objects: (B N) int64 of the images that will be run; patches with `IGNORE` stay as they are.
        amount: a; 1 changes nothing, 0 gives all patches of an object one binding vector.
    """

    def __init__(self, basis: Tensor, objects: Tensor, amount: float) -> None:
        if not 0 <= amount <= 1:
            raise ValueError(f"The amount a of a patch's own binding must be in [0, 1], got {amount}.")
        self.basis, self.objects, self.amount = orthonormal(basis), objects, amount

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.objects.shape != tokens.shape[:2]:
            raise ValueError(f"objects {tuple(self.objects.shape)} are not those of tokens {tuple(tokens.shape)}.")
        objects, basis = self.objects.to(tokens.device), self.basis.to(tokens.device)
        coordinates = tokens.float() @ basis
        equal = (objects[:, :, None] == objects[:, None]).to(coordinates.dtype)
        mean = (equal @ coordinates) / equal.sum(-1, keepdim=True)
        moved = (1 - self.amount) * (mean - coordinates) * (objects != IGNORE)[..., None]
        return tokens + (moved @ basis.mT).to(tokens.dtype)


class NormMatched:
    """Move every token as far as another change does, in a random direction: the control for size alone.

    Args:
        change: whose displacements are matched, token by token.
        generator: of the directions, on the CPU.
    """

    def __init__(self, change: Change, generator: torch.Generator | None = None) -> None:
        self.change, self.generator = change, generator

    def __call__(self, tokens: Tensor) -> Tensor:
        length = (self.change(tokens) - tokens).float().norm(dim=-1, keepdim=True)
        direction = torch.randn(tokens.shape, generator=self.generator).to(tokens.device)
        moved: Tensor = tokens + (direction * (length / direction.norm(dim=-1, keepdim=True))).to(tokens.dtype)
        return moved


@contextmanager
def ablated(vit: nn.Module, layer: int, change: Change) -> Iterator[None]:
    """While open, `change` acts on the patch tokens that block `layer` of a timm ViT gives out; later blocks read them.

    Prefix tokens (CLS, registers) pass untouched. The hook is gone afterwards, whatever happened inside. Compiled
    models run uncompiled meanwhile, since code that was compiled without the hook would go on without it.

    Raises:
        ValueError: not a model with `blocks`, one whose blocks read patches only (CaiT), or no such block.
    """
    model: Any = vit
    blocks, prefix = getattr(vit, "blocks", None), getattr(model, "num_prefix_tokens", None)
    if blocks is None or prefix is None or hasattr(model, "blocks_token_only"):  # CaiT's CLS comes in later
        raise ValueError(f"{type(vit).__name__} is not a timm ViT with blocks and prefix tokens.")
    if not -len(blocks) <= layer < len(blocks):
        raise ValueError(f"The model has blocks 0 to {len(blocks) - 1}, got layer {layer}.")

    def hook(block: nn.Module, arguments: Any, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :prefix], change(tokens[:, prefix:])], dim=1)

    handle = blocks[layer].register_forward_hook(hook)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        handle.remove()


def orthonormal(basis: Tensor) -> Tensor:
    """The basis (D r) in float32, if it is one.

    Raises:
        ValueError: columns that are not orthonormal to 1e-4: h - h U U^T would not be free of them.
    """
    basis = basis.float()
    if basis.ndim != 2 or (basis.mT @ basis - torch.eye(basis.shape[1], device=basis.device)).abs().max() > 1e-4:
        raise ValueError(f"The basis must be (D, r) with orthonormal columns, got {tuple(basis.shape)}.")
    return basis
