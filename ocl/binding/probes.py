"""Probes of IsSameObject: from the tokens of two patches to the logit that both show one object.

Li, Salehi, Ungar, Kording, "Does Object Binding Naturally Emerge in Large Pretrained Vision Transformers?", NeurIPS
2025. Every probe here holds L independent probes, one per layer, behind the leading axis of its tokens and of each of
its parameters, so that all layers of a model are fitted at once. No tensor has both two patch axes and a width axis:
s_i + s_j and (x W) x^T need N^2 numbers where pairs of tokens would need N^2 D.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.binding.cross_entropy import cross_entropy
from ocl.binding.patches import Patches
from ocl.binding.symmetric_form import symmetric_form


class PairProbe(nn.Module, ABC):
    """L independent symmetric probes. The answer "same object" is a logit above 0.

    Args:
        dim: D of the tokens.
        layers: L.
    """

    common: ClassVar[tuple[str, ...]] = ()
    """Names of buffers that are the same in all layers and have no axis for them."""
    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__()
        if dim < 1 or layers < 1:
            raise ValueError(f"A probe needs dim and layers of at least 1, got {dim} and {layers}.")
        self.dim, self.layers = dim, layers
        self.register_buffer("mean", torch.zeros(layers, dim))
        self.register_buffer("deviation", torch.ones(layers, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(L B n D) -> logits (L B n n) float32, equal to their own transpose."""
        return self.logits(self.read(tokens))

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """(L B n D) float32, standardised if the probe was told to -> (L B n n)."""

    def loss(self, patches: Patches, counted: Tensor) -> Tensor:
        """(L): mean binary cross-entropy over the pairs of `counted` (B n n)."""
        return cross_entropy(self(patches.tokens), patches.same, counted) / counted.sum().clamp(min=1)

    @torch.no_grad()
    def standardise(self, tokens: Tensor) -> None:
        """Take off the mean and divide by the deviation of these tokens (L B n D) from now on, layer by layer.

        A dimension that never changes is not divided: by next to nothing, it would take over `FormProbe.form`.
        """
        for layer in range(self.layers):  # one layer at a time: all of them in float32 may not fit
            deviation, mean = torch.std_mean(tokens[layer].flatten(0, 1).float(), dim=0, correction=0)
            constant = deviation <= 1e-6 * (mean.abs() + deviation.mean())  # to the precision of float32
            self.mean[layer], self.deviation[layer] = mean, deviation.masked_fill(constant, 1)

    def parts(self, layers: int) -> list[PairProbe]:
        """Probes of so many layers each, the last of the rest, that share the memory of this one's parameters."""
        found = []
        shared = [*self.parameters(), *self.buffers()]
        for chosen in torch.arange(self.layers).split(layers):
            part = copy.deepcopy(self, {id(one): one for one in shared})  # these, which are large, are not copied
            first, last = int(chosen[0]), int(chosen[-1]) + 1
            part.layers = last - first
            for name, values in self.named_parameters():
                setattr(part, name, nn.Parameter(values.detach()[first:last]))
            for name, buffer in self.named_buffers():
                if name not in self.common:
                    setattr(part, name, buffer[first:last])
            found.append(part)
        return found

    def read(self, tokens: Tensor) -> Tensor:
        """(L B n D) -> float32, standardised with what `standardise` saw (as they are where it was never called)."""
        if tokens.ndim != 4 or tokens.shape[0] != self.layers or tokens.shape[-1] != self.dim:
            raise ValueError(f"tokens must be ({self.layers}, B, n, {self.dim}), got {tuple(tokens.shape)}.")
        standard = tokens.to(torch.float32, copy=True)
        return standard.sub_(self.mean[:, None, None]).mul_(1 / self.deviation[:, None, None])


class FormProbe(PairProbe):
    """x^T M y + b with a symmetric M (D D)."""

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.bias = nn.Parameter(torch.zeros(layers))

    @abstractmethod
    def matrix(self) -> Tensor:
        """M (L D D), symmetric, of tokens as `read` gives them."""

    def form(self) -> Tensor:
        """M (L D D) of the tokens as the model gives them: the deviations of `standardise` are worked in."""
        return self.matrix() / (self.deviation[:, :, None] * self.deviation[:, None])

    def logits(self, tokens: Tensor) -> Tensor:
        return symmetric_form(tokens, self.matrix()) + over_pairs(self.bias)


class Linear(PairProbe):
    """w x + w y + b. D + 1 parameters; the published code adds its bias once per side, which is the same function."""

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.weight = nn.Parameter(torch.zeros(layers, dim))
        self.bias = nn.Parameter(torch.zeros(layers))

    def logits(self, tokens: Tensor) -> Tensor:
        score = torch.einsum("lbnd,ld->lbn", tokens, self.weight)
        return score[..., :, None] + score[..., None, :] + over_pairs(self.bias)


class Diagonal(FormProbe):
    """x^T diag(w) y + b. D + 1 parameters."""

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.weight = nn.Parameter(torch.zeros(layers, dim))

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.weight)

    def logits(self, tokens: Tensor) -> Tensor:
        return symmetric(tokens, tokens * self.weight[:, None, None]) + over_pairs(self.bias)


class Quadratic(FormProbe):
    """x^T W y / sqrt(D) + b with a full W, of which only (W + W^T) / 2 matters: the published code's quadratic probe.

    D^2 + 1 parameters. They start at 0, where the loss has one minimum and no seed.
    """

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.weight = nn.Parameter(torch.zeros(layers, dim, dim))

    def matrix(self) -> Tensor:
        return (self.weight + self.weight.mT) / (2 * math.sqrt(self.dim))


class LowRank(FormProbe):
    """(W1 x)^T (W2 y) / sqrt(D) + b, made symmetric, W1 and W2 (k D) both free. 2 k D + 1 parameters.

    The rank of 100 is the published code's; normal initial values of variance 1 / D are not.
    """

    def __init__(self, dim: int, rank: int = 100, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.left = nn.Parameter(torch.randn(layers, rank, dim) / math.sqrt(dim))
        self.right = nn.Parameter(torch.randn(layers, rank, dim) / math.sqrt(dim))

    def matrix(self) -> Tensor:
        product = self.left.mT @ self.right
        return (product + product.mT) / (2 * math.sqrt(self.dim))

    def logits(self, tokens: Tensor) -> Tensor:
        pairs = symmetric(project(tokens, self.left.mT), project(tokens, self.right.mT))
        return pairs / math.sqrt(self.dim) + over_pairs(self.bias)


class SignedLowRank(FormProbe):
    """x^T W1^T S W1 y / sqrt(D) + b, S = diag(1 ... 1, -1 ... -1): the paper's quadratic probe. k D + 1 parameters.

    The signs have no gradient and the paper does not say how it sets them, so they are given here.

    Args:
        dim: D of the tokens.
        rank: k.
        negative: how many of the k signs are -1; with none the form is positive semidefinite.
        layers: L.
    """

    common = ("signs",)
    signs: Tensor

    def __init__(self, dim: int, rank: int = 100, negative: int = 0, layers: int = 1) -> None:
        super().__init__(dim, layers)
        if not 0 <= negative <= rank:
            raise ValueError(f"negative signs must be 0 to the rank {rank}, got {negative}.")
        self.weight = nn.Parameter(torch.randn(layers, rank, dim) / math.sqrt(dim))
        signs = torch.ones(rank)
        signs[rank - negative :] = -1
        self.register_buffer("signs", signs)

    def matrix(self) -> Tensor:
        return self.weight.mT @ (self.signs[:, None] * self.weight) / math.sqrt(self.dim)

    def logits(self, tokens: Tensor) -> Tensor:
        keys = project(tokens, self.weight.mT)
        return symmetric(keys * self.signs, keys) / math.sqrt(self.dim) + over_pairs(self.bias)


class Dot(FormProbe):
    """a x^T y / sqrt(D) + b. Two parameters; the published code has no scale a."""

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.scale = nn.Parameter(torch.ones(layers))

    def matrix(self) -> Tensor:
        return torch.eye(self.dim, device=self.scale.device) * self.scale[:, None, None] / math.sqrt(self.dim)

    def logits(self, tokens: Tensor) -> Tensor:
        scale = self.scale[:, None, None, None] / math.sqrt(self.dim)
        return symmetric(tokens, tokens * scale) + over_pairs(self.bias)


class Cosine(PairProbe):
    """a cos(x, y) + b. Two parameters; the published code has no scale a, so its logits stay within b +- 1."""

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.scale = nn.Parameter(torch.ones(layers))
        self.bias = nn.Parameter(torch.zeros(layers))

    def logits(self, tokens: Tensor) -> Tensor:
        directions = F.normalize(tokens, dim=-1)
        return symmetric(directions, directions) * over_pairs(self.scale) + over_pairs(self.bias)


def symmetric(left: Tensor, right: Tensor) -> Tensor:
    """(L B n k) twice -> (L B n n): products of all pairs, averaged with their transpose: no rounding differs."""
    pairs = left @ right.mT
    averaged: Tensor = (pairs + pairs.mT) / 2
    return averaged


def project(tokens: Tensor, weight: Tensor) -> Tensor:
    """(L B n D) by (L D k) -> (L B n k): one product per layer, since a broadcast one would copy the weight B times."""
    projected: Tensor = torch.bmm(tokens.flatten(1, 2), weight).unflatten(1, tokens.shape[1:3])
    return projected


def over_pairs(values: Tensor) -> Tensor:
    """(L) -> (L 1 1 1)."""
    return values[:, None, None, None]
