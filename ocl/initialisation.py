"""The initialisation of the official Slot Attention code, for whole modules."""

from __future__ import annotations

from torch import nn


def glorot_(module: nn.Module) -> nn.Module:
    """Glorot uniform weights and zero biases in every linear and convolutional layer below `module`, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
