"""Random walks between slots and features: where a slot's similarity to the tokens leads, and where theirs leads back.

With slots Z (K D), the tokens H (N D) that the grouping read, and similarities S = Z H^T:

    A = softmax over features of S / tau        (K N)  slot -> feature
    B = softmax over slots of S^T / tau         (N K)  feature -> slot
    P = A B                                     (K K)  slot -> feature -> slot, rows sum to one
    F = B A                                     (N N)  feature -> slot -> feature, rows sum to one

P and F are never formed here: what losses and measures need of them follows from A and B, each (B K N) in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ocl.hooks import ReadsModel
from ocl.shapes import Batch, Features, Output

EXCLUDED = -1e30
"""Logit of what a softmax leaves out: its probability is 0, and unlike minus infinity it leaves gradients finite."""


@dataclass
class Transitions:
    """Both steps of the walks, as logarithms in float32 at least.

    log_to_features: (B K N) log A, normalised over N.
    log_to_slots:    (B K N) log B^T, normalised over K.
    kept:            (B K) bool; the slots that take part, at least one per image. Features step to no other slot.
    counted:         (B) bool; False where no slot takes part, and all are kept for the sake of finite numbers.
    """

    log_to_features: Tensor
    log_to_slots: Tensor
    kept: Tensor
    counted: Tensor

    @property
    def to_features(self) -> Tensor:
        return self.log_to_features.exp()

    @property
    def to_slots(self) -> Tensor:
        return self.log_to_slots.exp()


class Embedding(nn.Module, ABC):
    """Slots (B K D) and tokens (B N F) into the one space where they are compared."""

    @abstractmethod
    def forward(self, slots: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]: ...


class SlotProjection(Embedding):
    """A learned linear map of the slots to the width of the tokens, trained with the loss that holds it."""

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, token_dim, bias=False)

    def forward(self, slots: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(slots), tokens


@runtime_checkable
class Attends(Protocol):
    """A grouping with Slot Attention's own query and key."""

    norm_slots: nn.Module
    norm_tokens: nn.Module
    query: nn.Module
    key: nn.Module


class AttentionProjections(Embedding, ReadsModel):
    """The grouping's own q(LayerNorm(Z)) and k(LayerNorm(H)), which the walk then trains too.

    Whole rows, whatever else the grouping does to its logits (heads, a refining kernel, relative places).
    """

    def __init__(self) -> None:
        super().__init__()
        self._grouping: tuple[Attends, ...] = ()  # in a tuple: the model's part, not a part of this module

    def attach(self, model: nn.Module) -> None:
        grouping = model.grouping
        if not isinstance(grouping, Attends):
            raise ValueError(
                f"{type(grouping).__name__} has no query and key to compare slots and tokens with; use SlotProjection."
            )
        self._grouping = (grouping,)

    def forward(self, slots: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if not self._grouping:
            raise ValueError("AttentionProjections belong to a model; call attach(model) first, as training does.")
        (grouping,) = self._grouping
        return grouping.query(grouping.norm_slots(slots)), grouping.key(grouping.norm_tokens(tokens))


class Walk(nn.Module, ReadsModel):
    """The transition probabilities between the slots and tokens of an `Output`.

    The source (Didolkar et al. 2024, arXiv 2306.02204) was read in its abstract and reviews only: no default here is
    known to be the paper's. Temperature and cosine are those of a relative, SACRW (arXiv 2302.08023).

    Args:
        temperature: tau of both steps.
        cosine: compare directions; False: plain dot products.
        embedding: brings slots and tokens to one width; None compares them as they are.
        active_only: leave out slots whose mean attention over the image is at most 1 / (2 K), half of an even share.
            Slots that are not valid are always left out.
        detach_features: the walk moves the grouping alone, nothing before it: features enter as constants and the
            slots are grouped once more from constants, since the model's own carry a gradient into the encoder.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        cosine: bool = True,
        embedding: Embedding | None = None,
        active_only: bool = False,
        detach_features: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature, self.cosine, self.embedding = temperature, cosine, embedding
        self.active_only, self.detach_features = active_only, detach_features
        self._grouping: tuple[nn.Module, ...] = ()  # in a tuple: the model's part, not a part of this module

    def attach(self, model: nn.Module) -> None:
        self._grouping = (model.grouping,)  # type: ignore[assignment]
        if isinstance(self.embedding, ReadsModel):
            self.embedding.attach(model)

    def forward(self, output: Output, batch: Batch) -> Transitions:
        slots, tokens = self._slots_and_tokens(output, batch)
        if self.embedding is not None:
            slots, tokens = self.embedding(slots, tokens)
        if slots.shape[-1] != tokens.shape[-1]:
            raise ValueError(
                f"slots are {slots.shape[-1]} wide and tokens {tokens.shape[-1]}; give the walk an embedding, for "
                f"example ocl.losses.walks.SlotProjection({slots.shape[-1]}, {tokens.shape[-1]})."
            )
        kept = self._kept(output)
        counted = kept.any(dim=1)
        kept = kept | ~counted[:, None]
        with torch.autocast(slots.device.type, enabled=False):
            logits = self._similarity(in_single(slots), in_single(tokens)) / self.temperature  # (B K N)
            among_slots = logits.masked_fill(~kept[:, :, None], EXCLUDED)
            return Transitions(logits.log_softmax(dim=2), among_slots.log_softmax(dim=1), kept, counted)

    def _similarity(self, slots: Tensor, tokens: Tensor) -> Tensor:
        if not self.cosine:
            return slots @ tokens.mT
        cosine: Tensor = _AlongTokens.apply(functional.normalize(slots, dim=-1), tokens)  # type: ignore[no-untyped-call]
        return cosine

    def _slots_and_tokens(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        if not self.detach_features:
            return output.slots.vectors, output.tokens.tokens
        if not self._grouping:
            raise ValueError("detach_features groups once more; call attach(model) first, as training does.")
        tokens = Features(output.tokens.tokens.detach(), output.tokens.grid)
        (grouping,) = self._grouping
        return grouping(tokens, output.initial.detach(), None, batch.hints).vectors, tokens.tokens

    def _kept(self, output: Output) -> Tensor:
        """(B K) bool."""
        valid = output.slots.valid
        if not self.active_only:
            return valid
        masks = output.slots.masks
        if masks is None:
            raise ValueError("active_only reads the attention masks of the slots, and this grouping gives none.")
        share = masks.detach().flatten(2).float().mean(dim=2)  # (B K)
        return valid & (share > 0.5 / valid.sum(dim=1, keepdim=True))


class _AlongTokens(torch.autograd.Function):
    """z (B K D), h (B N D) -> <z_i, h_j> / |h_j| (B K N), 0 where h_j is 0.

    Left to autograd, the normalised tokens and their gradient take several passes over (B N D), five times the work.
    """

    @staticmethod
    def forward(ctx: Any, slots: Tensor, tokens: Tensor) -> Tensor:
        length = tokens.norm(dim=-1)
        inverse = length.reciprocal().masked_fill_(length == 0, 0)[:, None]  # (B 1 N)
        along = (slots @ tokens.mT).mul_(inverse)
        ctx.save_for_backward(slots, tokens, along, inverse)
        return along

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        slots, tokens, along, inverse = ctx.saved_tensors
        scaled = gradient * inverse
        with torch.autocast(tokens.device.type, enabled=False):
            to_slots = scaled @ tokens
            if not ctx.needs_input_grad[1]:
                return to_slots, None
            radial = (scaled * along * inverse).sum(dim=1)  # (B N): what would only lengthen a token
            return to_slots, (scaled.mT @ slots).addcmul_(tokens, radial[:, :, None], value=-1)


def in_single(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it came so."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
