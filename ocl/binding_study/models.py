"""What is studied: a model, the same network before it was trained, and what it was trained for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed

from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder, patch_encoder
from ocl.encoders.vit_layers import ViTLayers
from ocl.instantiate import instantiate
from ocl.objectives.base import ViTObjective
from ocl.objectives.vit import TrainableViT
from ocl.representations.base import ObjectEncoder
from ocl.states import read_state

CONFIG, WEIGHTS, CHECKPOINT = "config.yaml", "vit.safetensors", Path("checkpoints") / "last.ckpt"


class Studied(ABC):
    """A model whose tokens are probed, with its random twin."""

    @abstractmethod
    def trained(self) -> PatchEncoder:
        """The model itself."""

    @abstractmethod
    def random(self, seed: int) -> PatchEncoder:
        """The same architecture on the same grid with weights as they are before training, drawn from `seed`."""

    def objective(self) -> ViTObjective | None:
        """What the model was trained to minimise, its weights included; None where that is not at hand."""
        return None


class TimmViT(Studied):
    """A vision transformer by its timm name; the arguments are those of `ViTLayers`. Its random twin is timm's own.

    Raises:
        FileNotFoundError, ValueError: when it is built, see `ViTLayers`.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layers: Sequence[int] | None = None,
        parts: Sequence[str] = ("block",),
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.image_size, self.layers, self.parts = name, image_size, layers, parts
        self.pretrained, self.weights, self.arguments = pretrained, weights, arguments

    def trained(self) -> PatchEncoder:
        return LayerTokens(self._layers(self.pretrained, self.weights))

    def random(self, seed: int) -> PatchEncoder:
        with _seeded(seed):
            return LayerTokens(self._layers(False, None))

    def _layers(self, pretrained: bool, weights: str | None) -> ViTLayers:
        return ViTLayers(self.name, self.image_size, self.layers, self.parts, pretrained, weights, self.arguments)


class OwnViT(Studied):
    """A vision transformer that `ocl fit` trained. Its random twin starts as that training does.

    Args:
        run: the run's folder, with config.yaml and vit.safetensors; checkpoints/last.ckpt holds the objective's.
        image_size: (H, W) to read it at, positions interpolated; None takes the size that it was trained at.
        layers, parts: see `ViTLayers`.

    Raises:
        FileNotFoundError: no such run, or not finished.
        ValueError: a run of something else.
    """

    def __init__(
        self,
        run: Path,
        image_size: tuple[int, int] | None = None,
        layers: Sequence[int] | None = None,
        parts: Sequence[str] = ("block",),
    ) -> None:
        self.run, self.layers, self.parts = Path(run), layers, parts
        try:
            content = yaml.safe_load(self._file(Path(CONFIG)).read_text(encoding="utf-8"))
            self._objective: dict[str, Any] = content["model"]["objective"]
            self._vit: dict[str, Any] = self._objective["init_args"]["vit"]["init_args"]
            self._start = {name: self._vit[name] for name in ("name", "image_size", "arguments")}
        except (KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{self.run} is no run of a ViT: its {CONFIG} has no objective with a vit.") from error
        self.image_size = tuple(self._start["image_size"]) if image_size is None else tuple(image_size)

    def trained(self) -> PatchEncoder:
        path = self._file(Path(WEIGHTS))
        vit = TrainableViT(**self._start)
        try:
            vit.vit.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold the ViT that {self.run / CONFIG} describes; restore it.") from error
        return self._read(vit)

    def random(self, seed: int) -> PatchEncoder:
        with _seeded(seed):
            return self._read(TrainableViT(**self._start))

    def objective(self) -> ViTObjective | None:
        if not (self.run / CHECKPOINT).is_file() or list(self.image_size) != list(self._start["image_size"]):
            return None  # positions in an objective belong to the size of its training
        built = instantiate(self._objective)
        assert isinstance(built, ViTObjective)
        saved = read_state(self.run / CHECKPOINT, frozenset({"state_dict"}))["state_dict"]
        built.load_state_dict({name.removeprefix("objective."): values for name, values in saved.items()})
        return built.eval().requires_grad_(False)

    def _read(self, vit: TrainableViT) -> PatchEncoder:
        """Layers of a ViT of the training's size, at the size of this one."""
        size = (self.image_size[0], self.image_size[1])
        layers = ViTLayers(vit.name, size, self.layers, self.parts, pretrained=False, arguments=vit.arguments)
        state = vit.vit.state_dict()
        positions = state["pos_embed"]
        prefix = positions.shape[1] - vit.grid[0] * vit.grid[1]
        state["pos_embed"] = resample_abs_pos_embed(positions, list(layers.grid), list(vit.grid), prefix)
        layers.vit.load_state_dict(state)
        return LayerTokens(layers)

    def _file(self, name: Path) -> Path:
        if not (self.run / name).is_file():
            raise FileNotFoundError(f"{self.run / name} does not exist; train the ViT first with ocl fit.")
        return self.run / name


class AnyEncoder(Studied):
    """Slots of a model, segments, grid cells, pixels: any object encoder with masks, read patch by patch.

    The control beside it is a random-initialised ViT-Tiny with the same grid.

    Args:
        encoder: gives the slots.
        grid: (h, w) patches to read it at; None takes the encoder's own grid.
    """

    def __init__(self, encoder: ObjectEncoder, grid: tuple[int, int] | None = None) -> None:
        self.encoder, self.grid = encoder, grid

    def trained(self) -> PatchEncoder:
        return patch_encoder(self.encoder, self.grid)

    def random(self, seed: int) -> PatchEncoder:
        rows, columns = self.trained().grid
        size = (16 * rows, 16 * columns)
        with _seeded(seed):
            return LayerTokens(ViTLayers("vit_tiny_patch16_224", size, pretrained=False))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What is drawn inside comes from `seed`; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
