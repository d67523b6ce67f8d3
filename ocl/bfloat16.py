"""bfloat16 in arrays: numpy has no such type, so its bits travel in a type that no arithmetic accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BFLOAT16: np.dtype[Any] = np.dtype([("bfloat16", "<u2")])


def dtype_named(name: str) -> np.dtype[Any]:
    """Of "bfloat16", or of a name that numpy knows."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def name_of(dtype: np.dtype[Any]) -> str:
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The same values in the same memory, as torch knows them."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A tensor without gradient as an array of the same type, on the CPU."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(BFLOAT16)
    values: NDArray[Any] = tensor.numpy()
    return values
