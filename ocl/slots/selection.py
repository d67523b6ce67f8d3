"""A variable number of slots: a small network keeps some and drops the others (AdaSlot)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ocl.shapes import Slots


class SlotSelection(nn.Module):
    """Keep or drop each slot by itself (AdaSlot: Fan et al., CVPR 2024).

    A network gives every slot the logits of "drop" and "keep", from which z in {0, 1} is drawn: hard Gumbel-softmax,

        y_k = softmax((logits_k + Gumbel noise) / temperature)["keep"],  z_k = [y_k > 1/2], with the gradient of y_k,

    and in eval mode without noise, the likelier of the two. An image in which nothing is kept keeps its likeliest slot.
    Decoders weigh their masks by z (`ocl.shapes.softmax_over_slots`). `ocl.losses.sparsity.KeepCost` is what makes
    dropping pay; the published training starts from a model trained without selection.

    Slots that were not valid stay dropped, if the image has any that is. Notes of the result: "keep" (B K) float, z and
    its gradient; "keep_probability" (B K) float32, without noise.

    Args:
        dim: slot width D.
        hidden_dim: of the network, LayerNorm and one hidden layer; its published form is not known here. D where None.
        temperature: of the Gumbel-softmax; smaller is closer to the gradient of z and noisier. Not the paper's.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        hidden_dim = dim if hidden_dim is None else hidden_dim
        self.dim, self.temperature = dim, temperature
        self.network = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 2))

    def forward(self, slots: Slots) -> Slots:
        """The same vectors and masks, with fewer of them valid."""
        if slots.vectors.shape[-1] != self.dim:
            raise ValueError(f"slots must be (B, K, {self.dim}), got {tuple(slots.vectors.shape)}.")
        drop, keep = self.network(slots.vectors).float().unbind(dim=-1)
        margin = (keep - drop).masked_fill(~slots.valid, -torch.inf)  # (B K): all that a softmax of two depends on
        # The difference of two Gumbel variables is logistic, so one draw per slot does.
        noisy = margin + torch.rand_like(margin).logit() if self.training else margin
        kept = noisy > 0
        likeliest = torch.zeros_like(kept).scatter(1, margin.argmax(dim=1, keepdim=True), True)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, likeliest)
        soft = torch.sigmoid(noisy / self.temperature)
        # In this order the value is exactly 0 or 1; a dropped slot of 1e-8 would still get a share of the masks.
        straight_through = kept.float() + (soft - soft.detach())
        notes = {**slots.notes, "keep": straight_through, "keep_probability": torch.sigmoid(margin)}
        return replace(slots, valid=kept, notes=notes)
