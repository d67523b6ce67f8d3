"""`ocl fit | validate | test`: LightningCLI with our loggers, whole checkpoints and an automatic, exact resume."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ocl.callbacks import Export, ExportObjective, ObjectivePictures, SlotPictures
from ocl.data.module import SceneDataModule
from ocl.files import remove_leftovers, write_atomically, write_text
from ocl.pretraining import Pretraining
from ocl.states import read_state
from ocl.training import ObjectCentricTraining

CONFIG = "config.yaml"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Training checkpoints are written whole or not at all, and read without running pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_atomically(path, lambda temporary: torch.save(checkpoint, temporary))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_state(path, frozenset({"state_dict", "global_step"}), map_location)


class KeepConfig(SaveConfigCallback):
    """Write the resolved configuration to `<run>/config.yaml` before the first step of `fit`."""

    def __init__(self, parser: Any, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            write_text(Path(trainer.default_root_dir) / CONFIG, self.parser.dump(self.config, skip_none=False))


class FitCLI(LightningCLI):
    """One run, one folder (`trainer.default_root_dir`) with config.yaml, checkpoints, logs, pictures and the model.

    Starting the same command again continues from the last checkpoint; another model or data configuration in the same
    folder is refused. `validate` and `test` measure the last checkpoint of the folder, where there is one.
    """

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--checkpoint_every", type=int, default=500, help="steps between training checkpoints")
        parser.add_argument(
            "--pictures", type=int, default=8, help="validation images drawn at every validation; 0: none"
        )

    @property
    def settings(self) -> Any:
        return self.config[str(self.subcommand)]

    def before_instantiate_classes(self) -> None:
        config = self.settings
        if config.trainer.default_root_dir is None:
            raise ValueError(
                "trainer.default_root_dir is not set; name the run's folder, for example runs/tetrominoes."
            )
        root = Path(config.trainer.default_root_dir)
        if config.ckpt_path is None:
            config.ckpt_path = self._last_checkpoint(root)

    def _last_checkpoint(self, root: Path) -> str | None:
        last = root / "checkpoints" / "last.ckpt"
        if not last.is_file():
            return None
        stored, current = _stored_config(root / CONFIG), self._plain_config()
        fitting = self.subcommand == "fit"
        alike = ("seed_everything", "model", "data") if fitting else ("model",)  # any data may be measured
        changed = [name for name in alike if stored.get(name) != current.get(name)]
        if changed:
            way = (
                "repeat the command that started the run to continue it"
                if fitting
                else "name a checkpoint as ckpt_path"
            )
            raise ValueError(
                f"{root} holds a run with another {' and '.join(changed)} configuration (see its {CONFIG}); name "
                f"another trainer.default_root_dir, or {way}."
            )
        if fitting:  # else the run may be going on
            remove_leftovers(last.parent)
        return str(last)

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser(self.subcommand).dump(self.settings, skip_none=False)
        return dict(yaml.safe_load(text))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.settings
        root = Path(settings.trainer.default_root_dir)
        trainer = self._get(self.config_init, "trainer")
        has_objective = self.model_class is Pretraining
        export, pictures = (ExportObjective, ObjectivePictures) if has_objective else (Export, SlotPictures)
        callbacks = [
            *_as_list(trainer.get("callbacks")),
            ModelCheckpoint(
                root / "checkpoints",
                filename="last",
                every_n_train_steps=settings.checkpoint_every,
                enable_version_counter=False,
            ),
            export(self._plain_config(), settings.get("seed_everything")),
        ]
        if trainer.get("enable_progress_bar") is not False:
            callbacks.append(RichProgressBar())
        if settings.pictures:
            callbacks.append(pictures(settings.pictures))
        loggers = [CSVLogger(root, "logs"), TensorBoardLogger(root, "tensorboard"), *_as_list(trainer.get("logger"))]
        return super().instantiate_trainer(
            logger=loggers, callbacks=callbacks, plugins=[AtomicCheckpointIO()], **kwargs
        )


def _stored_config(path: Path) -> dict[str, Any]:
    """The configuration that a run began with."""
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        stored = None
    if not isinstance(stored, dict):
        raise ValueError(
            f"{path} is missing or damaged, so nobody knows which run the checkpoint beside it is of; restore it from "
            "a copy, or delete the checkpoint to start anew."
        )
    return stored


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value in (None, True, False) else [value]


def _training_class(arguments: list[str]) -> type[LightningModule]:
    """`Pretraining` where the model has an `objective`, in a config or on the command line; otherwise slots."""
    after = [value for word, value in pairwise(arguments) if word in ("--config", "-c")]
    paths = after + [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    for path in filter(os.path.isfile, paths):
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue  # the parser will say what is wrong with it
        if isinstance(content, dict) and "objective" in (content.get("model") or {}):
            return Pretraining
    named = any(word.startswith("--model.objective") for word in arguments)
    return Pretraining if named else ObjectCentricTraining


def run(arguments: Sequence[str]) -> FitCLI:
    """`arguments` as on the command line, the subcommand first."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice about settings that are meant
        return _run(list(arguments))


def _run(arguments: list[str]) -> FitCLI:
    return FitCLI(
        _training_class(arguments),
        SceneDataModule,
        save_config_callback=KeepConfig,
        seed_everything_default=0,
        args=arguments,
        parser_kwargs={"prog": "ocl"},
    )
