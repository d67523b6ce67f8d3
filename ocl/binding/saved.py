"""Fitted probes on disk: one safetensors file of tensors, no code in it, read back whole or layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ocl.binding.probes import PairProbe
from ocl.describe import class_path
from ocl.files import write_atomically

HEADER, CLASS = "probe", "class"
"""The one entry of the file's metadata (several would be written in any order), JSON, and the class's entry in it."""
LOSSES = "validation"
"""Beside the tensors, the loss (L) of each layer on validation images."""


def save_probe(
    probe: PairProbe, path: str | Path, losses: Tensor | None = None, header: Mapping[str, str] | None = None
) -> Path:
    """Write the class and the parameters and buffers of all L layers; `losses` (L) says how well each layer did, and
    `header` is written beside the class."""
    tensors = {name: values.detach().cpu().contiguous() for name, values in probe.state_dict().items()}
    if losses is not None:
        tensors[LOSSES] = losses.detach().cpu()
    named = json.dumps({**(header or {}), CLASS: class_path(probe)}, sort_keys=True)
    content = serialize(tensors, metadata={HEADER: named})
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_probe(probe: PairProbe, path: str | Path) -> tuple[dict[str, str], dict[str, Tensor], Tensor | None]:
    """The header, the tensors and the losses (L), None where there are none, of a file of probes of this class.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors, or another class's. Files of other programs do not say whose they are.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the file of a fitted probe.")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        found = load(path.read_bytes())
    except (SafetensorError, json.JSONDecodeError) as error:
        problem = f"is not a safetensors file ({error})"
        raise ValueError(f"{path} {problem}; give the file of a fitted probe, or delete it.") from error
    if (kind := header.get(CLASS, class_path(probe))) != class_path(probe):
        raise ValueError(f"{path} holds a {kind}, not a {class_path(probe)}; make a probe of its class.")
    losses = found.pop(LOSSES, None)
    return header, found, losses


def load_probe(probe: PairProbe, path: str | Path, layer: int | None = None) -> PairProbe:
    """Fill `probe`, made with the same class and sizes, from a file of `save_probe` or of `ocl binding`.

    Args:
        probe: is filled in place and returned, in eval mode.
        path: the file.
        layer: which of the file's layers a probe of one layer takes, from 0 or, negative, from the last; None reads a
            file of as many layers as the probe has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors, another probe's, or no such layer.
    """
    _, found, _ = read_probe(probe, path)
    wanted = probe.state_dict()
    if set(found) != set(wanted) or found["mean"].ndim != 2:
        raise ValueError(f"{path} holds {', '.join(sorted(found))}, a {type(probe).__name__} {', '.join(wanted)}.")
    layers = len(found["mean"])
    if layer is not None:
        if probe.layers != 1 or not -layers <= layer < layers:
            raise ValueError(
                f"{path} has layers 0 to {layers - 1} for a probe of one layer, got layer {layer} for {probe.layers}."
            )
        # signs are the same in all layers and have no axis for them
        found = {
            name: values if values.shape == wanted[name].shape else values[layer % layers :][:1]
            for name, values in found.items()
        }
    for name, values in wanted.items():
        if found[name].shape != values.shape:
            sizes = f"{name} {tuple(found[name].shape)}, the {type(probe).__name__} {tuple(values.shape)}"
            raise ValueError(f"{path} has {sizes}; make the probe with the sizes of the file, or name a layer of it.")
    probe.load_state_dict(found)
    return probe.eval()


class SavedProbe(nn.Module):
    """One layer of a fitted probe, by the file that holds it: for configs.

    Args:
        probe: of one layer, made with the class and sizes of the one in the file; is filled in place.
        weights: a file of `save_probe`, or one that `ocl binding` leaves in the folder "fits"; None fills nothing, for
            checkpoints that hold the numbers themselves.
        layer: which of the file's layers; the block of the ViT whose tokens will be read, where all were fitted.

    Raises:
        FileNotFoundError, ValueError: see `load_probe`.
    """

    def __init__(self, probe: PairProbe, weights: str | None = None, layer: int = -1) -> None:
        super().__init__()
        if probe.layers != 1:
            raise ValueError(f"SavedProbe fills a probe of one layer, got one of {probe.layers}.")
        self.probe = probe if weights is None else load_probe(probe, weights, layer)
        self.dim, self.layers = probe.dim, 1

    def forward(self, tokens: Tensor) -> Tensor:
        """(1 B n D) -> logits (1 B n n)."""
        logits: Tensor = self.probe(tokens)
        return logits
