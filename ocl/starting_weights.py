"""Weights that a model begins with: those of another training, brought to another resolution where theirs differs."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

import ocl
from ocl import checkpoints
from ocl.hooks import NeutralAtStart


@torch.no_grad()
def take_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy every weight that `model` trains from the checkpoint in `folder`; frozen ones and counters of steps stay.

    Positions of another grid, one vector for each of its h w cells after any prefix, are interpolated as timm does it:
    bicubic, with antialiasing. The grid is that of the module which holds them. Parts that are neutral at their start,
    such as the predictor of a model of clips, keep their own weights where the checkpoint has none.

    Args:
        model: changed in place.
        folder: of the checkpoint, or the name of one that travels with the package.

    Raises:
        FileNotFoundError, ValueError: see `ocl.checkpoints.load`; also a checkpoint that lacks a weight, or has it in a
            shape that no grid explains.
    """
    source = checkpoints.load(ocl.checkpoint_at(folder))
    given = dict(source.named_parameters())
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    neutral = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, NeutralAtStart))
    trained = {name: weight for name, weight in trained.items() if name in given or not name.startswith(neutral)}
    missing = sorted(set(trained) - set(given))
    if missing:
        raise ValueError(
            f"{folder} has no {missing[0]}; it holds another model than the one that should start from it."
        )
    for name, weight in trained.items():
        value: Tensor = given[name]
        if value.shape != weight.shape:
            value = _resampled(name, value, _grid(source, name), weight, _grid(model, name))
        weight.copy_(value)


def _grid(model: nn.Module, name: str) -> tuple[int, int] | None:
    """(h, w) of the innermost module with a grid around the parameter of this name."""
    parts = name.split(".")[:-1]
    for depth in range(len(parts), -1, -1):
        grid = getattr(model.get_submodule(".".join(parts[:depth])), "grid", None)
        if grid is not None:
            return int(grid[0]), int(grid[1])
    return None


def _resampled(
    name: str, value: Tensor, old: tuple[int, int] | None, weight: Tensor, new: tuple[int, int] | None
) -> Tensor:
    """`value` (..., P + h w, D) -> the shape of `weight` (..., P + h' w', D)."""
    if old is not None and new is not None and value.ndim >= 2:
        prefix = value.shape[-2] - old[0] * old[1]
        expected = (*value.shape[:-2], prefix + new[0] * new[1], value.shape[-1])
        if prefix >= 0 and tuple(weight.shape) == expected and set(value.shape[:-2]) <= {1}:
            cells = value.reshape(1, *value.shape[-2:])
            resampled: Tensor = resample_abs_pos_embed(cells, list(new), list(old), prefix)
            return resampled.view_as(weight)
    raise ValueError(
        f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(weight.shape)} in the model that should start "
        "from it; only positions of another grid are interpolated."
    )
