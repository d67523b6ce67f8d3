"""Queries, keys and values of a transformer's blocks, caught where its attention is computed.

Models differ in how they make them (one projection or three, normalised queries and keys, rotary positions, biases of
relative positions) and agree in what they do with them: `torch.nn.functional.scaled_dot_product_attention`. Reading
its arguments needs no knowledge of the model, and gives what the attention really multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass
class AttentionInputs:
    """query, key, value: (B heads N d), prefix tokens included; bias is added to the logits, scale multiplies them."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    scale: float

    def weights(self) -> Tensor:
        """(B heads N N), rows sum to one: softmax over the keys, in float32."""
        logits = self.query.float() @ self.key.float().mT * self.scale
        if self.bias is not None:
            if self.bias.dtype == torch.bool:
                logits = logits.masked_fill(~self.bias, -torch.inf)
            else:
                logits = logits + self.bias
        return logits.softmax(dim=-1)


class _Reader(TorchFunctionMode):
    """Notes the arguments of attention calls while `block` is one that is wanted."""

    def __init__(self, wanted: Collection[int]) -> None:
        super().__init__()
        self.calls: dict[int, list[AttentionInputs]] = {block: [] for block in wanted}
        self.block = -1

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and self.block in self.calls:
            self.calls[self.block].append(_inputs(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def enter(self, block: int, *_: Any) -> None:
        self.block = block

    def inputs(self, block: int, tokens: int, name: str) -> AttentionInputs:
        """What the attention of `block` read.

        Raises:
            ValueError: the block does not call it once over all `tokens` (N with prefix tokens).
        """
        calls = self.calls[block]
        if len(calls) != 1 or not calls[0].query.shape[2] == calls[0].key.shape[2] == tokens:
            raise ValueError(
                f"block {block} of {name} does not compute one scaled dot-product attention over its {tokens} tokens, "
                f'so its queries, keys, values and attention cannot be read; read its output ("block") instead.'
            )
        return calls[0]


@contextmanager
def reading_attention(blocks: nn.ModuleList, wanted: Collection[int]) -> Iterator[_Reader]:
    """While it lasts, the attention inputs of the `wanted` among `blocks` are kept."""
    reader = _Reader(wanted)
    hooks = [block.register_forward_pre_hook(partial(reader.enter, number)) for number, block in enumerate(blocks)]
    try:
        with reader:
            yield reader
    finally:
        for hook in hooks:
            hook.remove()


def _inputs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> AttentionInputs:
    bias = attn_mask
    if is_causal:
        bias = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return AttentionInputs(query, key, value, bias, query.shape[-1] ** -0.5 if scale is None else scale)
