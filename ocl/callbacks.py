"""What happens around training: pictures of a fixed batch, and the checkpoint that other programs load."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from safetensors.torch import save as serialize
from torch import Tensor
from torchvision.utils import make_grid

from ocl.checkpoints import save
from ocl.data.collate import collate
from ocl.describe import class_path
from ocl.files import write_atomically
from ocl.manifest import write_manifest
from ocl.objectives.base import EncoderObjective, ViTObjective
from ocl.objectives.vit import TrainableViT
from ocl.pictures import component_colors, slot_grid, write_png
from ocl.representations import Tokens, ViTPatches, ViTPooled, WholeImage
from ocl.shapes import Features, frames_as_float, images_as_float

PIXELS_PER_TOKEN = 8.0


class SlotPictures(Callback):
    """Every validation, draw image, reconstruction, overlay and slots of the same first `count` validation images.

    Pictures go to `<run>/pictures/step-<n>.png` and to TensorBoard and W&B where those loggers are present.
    """

    name = "slots"
    """Of the picture in the logs."""

    def __init__(self, count: int = 8) -> None:
        self.count = count

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        dataset = trainer.datamodule.val  # type: ignore[attr-defined]
        items = [dataset[index] for index in range(min(self.count, len(dataset)))]
        images = collate(items).images.to(pl_module.device)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        grid = self.draw(pl_module, images).cpu()
        torch.set_rng_state(state)
        path = Path(trainer.default_root_dir) / "pictures" / f"step-{trainer.global_step:07d}.png"
        write_png(path, grid)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(self.name, grid, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image(self.name, [str(path)], step=trainer.global_step)

    def draw(self, module: LightningModule, images: Tensor) -> Tensor:
        """Images (B 3 H W) uint8, or clips (B T 3 H W), whose frames are rows -> one picture (3 H' W') uint8.

        Of stored tokens, which are no images, it shows the principal components.
        """
        output = module.model(frames_as_float(images))  # type: ignore[operator, union-attr]
        masks, prediction = output.decoded.masks.flatten(0, -4), output.decoded.prediction
        painted = prediction.ndim == images.ndim  # pixels, not tokens
        shown = images.flatten(0, -4)
        if shown.shape[1] == 1:
            colors = component_colors(output.features.tokens.flatten(0, -3), output.features.grid)
            shown = F.interpolate((255 * colors).round().to(torch.uint8), scale_factor=PIXELS_PER_TOKEN)
        return slot_grid(shown, masks, prediction.flatten(0, -4) if painted else None)


class ObjectivePictures(SlotPictures):
    """The same of a pretraining: image, principal components of the tokens where there are any, the objective's own."""

    name = "objective"

    def draw(self, module: LightningModule, images: Tensor) -> Tensor:
        objective: Any = module.objective
        pixels = images_as_float(images)
        columns = [pixels]
        features: Features | None = objective.features(pixels)
        if features is not None:
            colors = component_colors(features.tokens, features.grid)
            columns.append(F.interpolate(colors, pixels.shape[-2:]))
        columns += objective.pictures(pixels)
        tiles = torch.stack(columns, dim=1).flatten(0, 1)  # (B columns, 3 H W)
        grid: Tensor = make_grid((255 * tiles).round().to(torch.uint8), nrow=len(columns), padding=2, pad_value=255)
        return grid


class Export(Callback):
    """At the end of `fit`, write `<run>/model/`: model.safetensors, config.yaml and the manifest with the last metrics.

    The rule for which weights count is the last step, never the best on validation data.

    Raises:
        ValueError: weights that are not finite: the loss is looked at every `log_every_n_steps` only.
    """

    def __init__(self, config: dict[str, Any], seed: int | None) -> None:
        self.config, self.seed = config, seed

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        broken = [name for name, weight in pl_module.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise ValueError(
                f"{broken[0]} holds NaN or infinity after step {trainer.global_step}, so no model is written; lower "
                "model.learning_rate or clip gradients (trainer.gradient_clip_val), and start in another folder."
            )
        folder = Path(trainer.default_root_dir) / "model"
        self.save(pl_module, folder)
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        write_manifest(folder, config=self.config, seed=self.seed, step=trainer.global_step, metrics=metrics)

    def save(self, module: LightningModule, folder: Path) -> None:
        save(self.config["model"]["model"], module.model, folder)  # type: ignore[arg-type]


class ExportObjective(Export):
    """The same for a pretraining: `<run>/model/` is an encoder of tokens, or of one vector per image where the network
    gives that.

    A ViT leaves its patch tokens there (`ViTPatches`) and what it pools for classification in `<run>/pooled/`
    (`ViTPooled`); `<run>/vit.safetensors` holds the weights alone, under timm's names, as `ViTEncoder`, `ViTLayers` and
    timm itself read them.
    """

    def save(self, module: LightningModule, folder: Path) -> None:
        objective = module.objective
        if isinstance(objective, ViTObjective):
            _save_vit(objective.vit, folder)
            return
        assert isinstance(objective, EncoderObjective)
        kind = Tokens if hasattr(objective.encoder, "grid") else WholeImage
        node = self.config["model"]["objective"]["init_args"]["encoder"]
        encoder = kind(copy.deepcopy(objective.encoder))  # freezes what it is given
        save({"class_path": class_path(encoder), "init_args": {"encoder": node}}, encoder, folder)


def _save_vit(trained: TrainableViT, folder: Path) -> None:
    arguments = {
        "name": trained.name,
        "image_size": list(trained.image_size),
        "pretrained": False,
        "arguments": trained.arguments,
    }
    weights = trained.vit.state_dict()
    for kind, place in ((ViTPatches, folder), (ViTPooled, folder.parent / "pooled")):
        encoder: Any = kind(**arguments)  # type: ignore[arg-type]
        encoder.encoder.vit.load_state_dict(weights)
        save({"class_path": class_path(encoder), "init_args": arguments}, encoder, place)
    content = serialize({name: values.cpu().contiguous() for name, values in weights.items()})
    write_atomically(folder.parent / "vit.safetensors", lambda temporary: temporary.write_bytes(content))
