"""The competition of slots for tokens, with a backward pass that touches the tokens once instead of 2 T times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ocl.shapes import softmax_over_slots


def attend(query: Tensor, tokens: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Plain form: query (B K F) and tokens (B N F) -> attention A (B K N) float32, pooled W X^ (B K F).

    A = softmax over K of query tokens^T; W = (A + epsilon) / sum over N of (A + epsilon).
    """
    attention = softmax_over_slots(query @ tokens.mT)
    weights = attention + epsilon
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return attention, weights.to(tokens.dtype) @ tokens


class Competition:
    """`attend` over one token tensor, several times in a row.

    Autograd would form one (B N F) gradient per use of the tokens, 2 T in all, and add them up; every one is an outer
    product of rank K. Here each backward step only notes its two factors, and the last step forms
    [dL_1; W_1; ...; dL_T; W_T]^T [Q_1; dP_1; ...; Q_T; dP_T] in one product of rank 2 T K: the same sum in one pass.

    The plain form serves where the ledger cannot: under a compiler (which fuses it anyway), under autocast, and where
    the tokens need no gradient.
    """

    def __init__(self, tokens: Tensor, epsilon: float) -> None:
        autocast = torch.is_autocast_enabled(tokens.device.type)
        self.deferred = (
            torch.is_grad_enabled() and tokens.requires_grad and not autocast and not torch.compiler.is_compiling()
        )
        self.epsilon = epsilon
        self.ledger = _Ledger()
        if self.deferred:
            self.tokens: Tensor = _CollectTokenGradient.apply(tokens, self.ledger)  # type: ignore[no-untyped-call]
        else:
            # Autocast would otherwise cast the tokens again in each of the 2 T products.
            self.tokens = tokens.to(torch.get_autocast_dtype(tokens.device.type)) if autocast else tokens

    def __call__(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """query (B K F) -> attention (B K N) float32, pooled (B K F)."""
        if not self.deferred:
            return attend(query, self.tokens, self.epsilon)
        result: tuple[Tensor, Tensor] = _Attend.apply(query, self.tokens, self.epsilon, self.ledger)  # type: ignore[no-untyped-call]
        return result


class _Ledger:
    """The factors noted by one backward pass; those of an earlier pass that never asked for the tokens' gradient
    are dropped."""

    def __init__(self) -> None:
        self.backward_pass = -1
        self.factors: list[tuple[Tensor, Tensor]] = []

    def note(self, left: Tensor, right: Tensor) -> None:
        current = torch._C._current_graph_task_id()
        if current != self.backward_pass:
            self.backward_pass, self.factors = current, []
        self.factors.append((left, right))

    def take(self) -> list[tuple[Tensor, Tensor]]:
        factors, self.factors = self.factors, []
        return factors if self.backward_pass == torch._C._current_graph_task_id() else []


class _CollectTokenGradient(torch.autograd.Function):
    """Identity whose backward runs after every `_Attend` of the same tokens has noted its factors."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, ledger: _Ledger) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.ledger = ledger
        return tokens.view_as(tokens)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        factors = ctx.ledger.take()
        if not factors:
            return gradient, None
        left = torch.cat([left for left, _ in factors], dim=1)  # (B 2TK N)
        right = torch.cat([right for _, right in factors], dim=1)  # (B 2TK F)
        collected = left.mT @ right
        return collected if gradient is None else collected + gradient, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, tokens: Tensor, epsilon: float, ledger: _Ledger) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        attention = (query @ tokens.mT).softmax(dim=1)
        weights = attention + epsilon
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights / total
        pooled = weights @ tokens
        ctx.save_for_backward(query, tokens, attention, weights, total, pooled)
        ctx.ledger = ledger
        return attention, pooled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(
        ctx: Any, d_attention: Tensor | None, d_pooled: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        query, tokens, attention, weights, total, pooled = ctx.saved_tensors
        if d_pooled is not None:
            ctx.ledger.note(weights, d_pooled)
            # d weights = d_pooled tokens^T; its mean under `weights` is d_pooled . pooled, so no second reduction.
            through_mean = (d_pooled * pooled).sum(dim=-1, keepdim=True)
            through_weights = torch.baddbmm(through_mean, d_pooled, tokens.mT, beta=-1).div_(total)
            d_attention = through_weights if d_attention is None else through_weights.add_(d_attention)
        if d_attention is None:
            return None, None, None, None
        weighted = d_attention * attention
        d_logits = torch.addcmul(weighted, attention, weighted.sum(dim=1, keepdim=True), value=-1)
        ctx.ledger.note(d_logits, query)
        return d_logits @ tokens, None, None, None
