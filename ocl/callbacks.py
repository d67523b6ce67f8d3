"""What happens around training: slot pictures on a fixed batch, and the checkpoint that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from ocl.checkpoints import save
from ocl.data.collate import collate
from ocl.manifest import write_manifest
from ocl.pictures import slot_grid, write_png
from ocl.shapes import images_as_float


class SlotPictures(Callback):
    """Every validation, draw image, reconstruction, overlay and slots of the same first `count` validation images.

    Pictures go to `<run>/pictures/step-<n>.png` and to TensorBoard and W&B where those loggers are present.
    """

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
        output = pl_module.model(images_as_float(images))  # type: ignore[operator, union-attr]
        torch.set_rng_state(state)
        prediction = output.decoded.prediction
        grid = slot_grid(images, output.decoded.masks, prediction if prediction.ndim == 4 else None).cpu()
        path = Path(trainer.default_root_dir) / "pictures" / f"step-{trainer.global_step:07d}.png"
        write_png(path, grid)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("slots", grid, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("slots", [str(path)], step=trainer.global_step)


class Export(Callback):
    """At the end of `fit`, write `<run>/model/`: model.safetensors, config.yaml and the manifest with the last metrics.

    The rule for which weights count is the last step, never the best on validation data.
    """

    def __init__(self, config: dict[str, Any], seed: int | None) -> None:
        self.config, self.seed = config, seed

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "model"
        save(self.config["model"]["model"], pl_module.model, folder)  # type: ignore[arg-type]
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        write_manifest(folder, config=self.config, seed=self.seed, step=trainer.global_step, metrics=metrics)
