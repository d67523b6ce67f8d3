"""Probes that name what each patch shows, and call two patches one object where the names agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ocl.binding.patches import Patches
from ocl.binding.probes import PairProbe, project, symmetric
from ocl.matching import optimal_assignment
from ocl.shapes import IGNORE


class Pointwise(PairProbe):
    """p^T q with p = softmax(W x + c) over C names. C (D + 1) parameters, where the paper counts D C without c.

    p^T q lies in [0, 1], so its logit is given, and 0 means one half; the published evaluation cuts p^T q itself at 0
    and so answers "same" to every pair.

    Args:
        dim: D of the tokens.
        names: C.
        layers: L.
    """

    def __init__(self, dim: int, names: int, layers: int = 1) -> None:
        super().__init__(dim, layers)
        self.weight = nn.Parameter(torch.zeros(layers, names, dim))
        self.bias = nn.Parameter(torch.zeros(layers, names))

    def names(self, tokens: Tensor) -> Tensor:
        """(L B n D), as `read` gives them -> logits of the names (L B n C)."""
        return project(tokens, self.weight.mT) + self.bias[:, None, None]

    def logits(self, tokens: Tensor) -> Tensor:
        log_shares = self.names(tokens).double().log_softmax(-1)
        shares, others = log_shares.exp().float(), -torch.expm1(log_shares).float()  # p and 1 - p, to full precision
        # p^T (1 - q) instead of 1 - p^T q, which would round to 0 where the probe is sure
        agree, differ = symmetric(shares, shares), symmetric(shares, others)
        least = torch.finfo(agree.dtype).tiny
        return agree.clamp(min=least).log() - differ.clamp(min=least).log()

    def hard(self, tokens: Tensor) -> Tensor:
        """(L B n D) -> (L B n n), 1 where the likeliest names of both patches are equal and -1 where not."""
        best = self.names(self.read(tokens)).argmax(-1)
        return (best[..., :, None] == best[..., None, :]).float() * 2 - 1

    def cross_entropy(self, tokens: Tensor, names: Tensor) -> Tensor:
        """(L): mean over patches of -log p(name), names (L B n) or (B n); `IGNORE` does not count."""
        log_shares = self.names(self.read(tokens)).log_softmax(-1)
        names = names.expand(log_shares.shape[:-1])
        counted = names != IGNORE
        chosen = log_shares.gather(-1, names.clamp(min=0)[..., None])[..., 0]
        return -(chosen * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)


class PointwiseClass(Pointwise):
    """Trained to name the class of each patch: two objects of one class are beyond it, as they are beyond `classes`."""

    def loss(self, patches: Patches, counted: Tensor) -> Tensor:
        """(L): mean cross-entropy of the classes; `counted` has no say, since no pair enters."""
        if patches.classes is None:
            raise ValueError("PointwiseClass is trained on the classes of patches; these patches have none.")
        _check(patches.classes, self.bias.shape[1], "class")
        return self.cross_entropy(patches.tokens, patches.classes)


class PointwiseIdentity(Pointwise):
    """Trained to name the object of each patch by its number in the image, which says which object is which only where
    the numbers follow a rule (left to right, by size)."""

    def loss(self, patches: Patches, counted: Tensor) -> Tensor:
        """(L): mean cross-entropy of the objects' numbers."""
        _check(patches.objects, self.bias.shape[1], "object")
        return self.cross_entropy(patches.tokens, patches.objects)


class MatchedIdentity(Pointwise):
    """Trained to give each object of an image a name of its own, whichever: names are matched to objects image by image
    at the least cross-entropy. The published code has 100 names and a loss of masks (cross-entropy 5, dice 5) in place
    of this one."""

    def __init__(self, dim: int, names: int = 100, layers: int = 1) -> None:
        super().__init__(dim, names, layers)
        nn.init.normal_(self.weight, std=1 / math.sqrt(dim))  # from equal names none could become one object's

    def loss(self, patches: Patches, counted: Tensor) -> Tensor:
        """(L): mean cross-entropy of the matched names. Objects beyond the number of names do not count."""
        with torch.no_grad():
            log_shares = self.names(self.read(patches.tokens)).log_softmax(-1)  # (L B n C)
            names = torch.stack([self._matched(shares, patches.objects) for shares in log_shares])
        return self.cross_entropy(patches.tokens, names)

    @staticmethod
    def _matched(log_shares: Tensor, objects: Tensor) -> Tensor:
        """(B n C), objects (B n) -> the name of every patch's object (B n)."""
        ids, index = objects.unique(return_inverse=True)  # over the batch: dense numbers, however large the labels
        member = torch.nn.functional.one_hot(index, len(ids)).to(log_shares.dtype)  # (B n M)
        present = member.any(1) & (ids != IGNORE)
        cost = -member.mT @ log_shares  # (B M C)
        columns, matched = optimal_assignment(cost, row_valid=present)
        return columns.masked_fill(~matched, IGNORE).gather(1, index)


def _check(labels: Tensor, names: int, what: str) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if highest >= names:
        raise ValueError(f"The probe has {names} names, but a {what} has the number {highest}; give it more names.")
    if lowest < IGNORE:
        raise ValueError(f"Numbers are 0 or more, or {IGNORE} for unknown, but a {what} has the number {lowest}.")
