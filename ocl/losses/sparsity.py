"""The price of slots, for models that choose how many they use."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.shapes import Batch, Output


class KeepCost(nn.Module):
    """Mean over slots and images of the probability to keep a slot (AdaSlot: Fan et al., CVPR 2024).

    Published weights: 0.1 on COCO with 33 slots, 10 on CLEVR10 with 11.

    Raises:
        ValueError: the model has no `ocl.slots.selection.SlotSelection`.
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        probability = output.slots.notes.get("keep_probability")
        if probability is None:
            raise ValueError("KeepCost needs a model with selection: ocl.slots.selection.SlotSelection.")
        return probability.mean()
