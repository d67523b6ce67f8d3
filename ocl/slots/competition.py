"""The competition of slots for tokens, with a backward pass that touches the tokens once instead of 2 T times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ocl.shapes import softmax_over_slots


@dataclass(frozen=True)
class Rules:
    """How R rows (slots, or the heads of slots, head by head) share the tokens.

    epsilon:      keeps a row that wins nothing from dividing zero by zero.
    in_sum:       where epsilon goes. False: (A + epsilon) / sum over N of (A + epsilon), so that such a row pools the
                  mean of all tokens. True: A / (sum over N of A + epsilon), so that it pools next to nothing.
    competitions: the rows are cut into that many equal runs; a softmax runs over each, independently of the others.
    """

    epsilon: float
    in_sum: bool = False
    competitions: int = 1

    def attention(self, logits: Tensor, valid: Tensor | None) -> Tensor:
        """logits (B R N), valid (B R) -> A (B R N) in float32 at least; rows that are not valid win nothing."""
        if valid is not None:
            logits = logits.masked_fill(~valid[:, :, None], torch.finfo(logits.dtype).min)
        return softmax_over_slots(logits.reshape(-1, logits.shape[1] // self.competitions, logits.shape[2])).view(
            logits.shape
        )

    def weights(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """A (B R N) -> W (B R N) and what it was divided by (B R 1)."""
        raised = attention if self.in_sum else attention + self.epsilon
        total = raised.sum(dim=-1, keepdim=True)
        if self.in_sum:
            total = total + self.epsilon
        return raised / total, total


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    rules: Rules,
    valid: Tensor | None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Plain form: query (B R F), keys and values (B N F) -> attention A (B R N) float32, pooled W values (B R F).

    A = softmax of query keys^T + bias (B R N) over the rows that compete; W = A, normalised over N.
    """
    logits = query @ keys.mT
    attention = rules.attention(logits if bias is None else logits + bias, valid)
    weights, _ = rules.weights(attention)
    return attention, weights.to(values.dtype) @ values


class Competition:
    """`attend` over the same tokens, several times in a row.

    Autograd would form one (B N F) gradient per use of the tokens, 2 T in all, and add them up; every one is an outer
    product of rank R. Here each backward step only notes its two factors, and the last step forms
    [dL_1; W_1; ...; dL_T; W_T]^T [Q_1; dP_1; ...; Q_T; dP_T] in one product of rank 2 T R: the same sum in one pass.
    Where logits are made of other tokens than those pooled (`keys`), each kind has its own ledger, of rank T R.

    The plain form serves where the ledger cannot: under a compiler (which fuses it anyway), under autocast, in half
    precision, and where the tokens need no gradient.

    Args:
        tokens: (B N F), what is pooled.
        rules: how the rows share them.
        keys: (B N F), what logits are made of; `tokens` where None.
        valid: (B R) bool, rows that take part; all where None.
    """

    def __init__(self, tokens: Tensor, rules: Rules, keys: Tensor | None = None, valid: Tensor | None = None) -> None:
        kind = tokens.device.type
        autocast = torch.is_autocast_enabled(kind)
        self.deferred = (
            torch.is_grad_enabled()
            and tokens.requires_grad
            and tokens.dtype in (torch.float32, torch.float64)
            and not autocast
            and not torch.compiler.is_compiling()
        )
        self.rules, self.valid = rules, valid

        def prepared(tokens: Tensor) -> tuple[Tensor, _Ledger]:
            ledger = _Ledger()
            if self.deferred:
                return _CollectTokenGradient.apply(tokens, ledger), ledger  # type: ignore[no-untyped-call]
            # Autocast would otherwise cast the tokens again in each of the 2 T products.
            return tokens.to(torch.get_autocast_dtype(kind)) if autocast else tokens, ledger

        self.values = prepared(tokens)
        self.keys = self.values if keys is None else prepared(keys)

    def __call__(self, query: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """query (B R F), and what is added to the logits (B R N) -> attention (B R N) float32, pooled (B R F)."""
        (keys, key_ledger), (values, value_ledger) = self.keys, self.values
        if not self.deferred:
            return attend(query, keys, values, self.rules, self.valid, bias)
        result: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
            query, bias, keys, values, self.rules, self.valid, key_ledger, value_ledger
        )
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
        left = torch.cat([left for left, _ in factors], dim=1)  # (B 2TR N)
        right = torch.cat([right for _, right in factors], dim=1)  # (B 2TR F)
        collected = left.mT @ right
        return collected if gradient is None else collected + gradient, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        bias: Tensor | None,
        keys: Tensor,
        values: Tensor,
        rules: Rules,
        valid: Tensor | None,
        key_ledger: _Ledger,
        value_ledger: _Ledger,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        logits = query @ keys.mT
        attention = rules.attention(logits if bias is None else logits + bias, valid)
        weights, total = rules.weights(attention)
        pooled = weights @ values
        ctx.save_for_backward(query, keys, values, attention, weights, total, pooled)
        ctx.competitions, ctx.key_ledger, ctx.value_ledger = rules.competitions, key_ledger, value_ledger
        return attention, pooled

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(
        ctx: Any, d_attention: Tensor | None, d_pooled: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None, None]:
        query, keys, values, attention, weights, total, pooled = ctx.saved_tensors
        if d_pooled is not None:
            ctx.value_ledger.note(weights, d_pooled)
            # d weights = d_pooled values^T; its mean under `weights` is d_pooled . pooled, so no second reduction.
            through_mean = (d_pooled * pooled).sum(dim=-1, keepdim=True)
            through_weights = torch.baddbmm(through_mean, d_pooled, values.mT, beta=-1).div_(total)
            d_attention = through_weights if d_attention is None else through_weights.add_(d_attention)
        if d_attention is None:
            return None, None, None, None, None, None, None, None
        runs = (-1, attention.shape[1] // ctx.competitions, attention.shape[2])  # one softmax in each
        attention, weighted = attention.view(runs), (d_attention * attention).view(runs)
        d_logits = torch.addcmul(weighted, attention, weighted.sum(dim=1, keepdim=True), value=-1)
        d_logits = d_logits.view_as(weights)
        ctx.key_ledger.note(d_logits, query)
        return d_logits @ keys, d_logits if ctx.needs_input_grad[1] else None, None, None, None, None, None, None
