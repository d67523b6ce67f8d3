"""Built data sets behind Lightning's interface: the same batches in the same order, also after a resume mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from ocl.data.collate import collate
from ocl.data.order import EpochBatches
from ocl.data.stored_tokens import token_sets
from ocl.shapes import Batch


class ResumableLoader:
    """The training loader: each pass asks `position` for (epoch, batches already trained on) and goes on from there.

    Lightning keeps that count in its checkpoints, so nothing else needs saving and skipped batches cost nothing. The
    count is read when the first batch is asked for: Lightning calls `iter()` before it has restored the epoch.
    """

    def __init__(self, loader: DataLoader[Any], batches: EpochBatches, position: Callable[[], tuple[int, int]]) -> None:
        self.loader, self.batches, self.position = loader, batches, position

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.batches.begin(*self.position())
        yield from self.loader

    def state_dict(self) -> dict[str, int]:
        """Empty: with `load_state_dict` it tells Lightning that this loader resumes mid-epoch."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None: ...


class SceneDataModule(LightningDataModule):
    """Training, validation and test sets of dictionaries of tensors, in batches (`ocl.shapes.Batch`).

    Training order is a function of (seed, epoch) alone and goes on exactly where a checkpoint was written; validation
    and test are read in order. The number of workers changes speed only. Several training processes share every set:
    none of its items is read by two.

    Args:
        train, val, test: map-style data sets; the absent ones have no loader. (Bare `Dataset`, because jsonargparse
            offers no subclasses of a subscripted class.)
        batch_size: images per batch and process.
        num_workers: processes that read; 0 reads in the training process.
        seed: of the training order; the data sets have their own.

    Raises:
        ValueError: a batch size below 1 or larger than the training set; on resume, an order that differs from the
            checkpoint's.
    """

    def __init__(
        self,
        train: Dataset | None = None,  # type: ignore[type-arg]
        val: Dataset | None = None,  # type: ignore[type-arg]
        test: Dataset | None = None,  # type: ignore[type-arg]
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or seed < 0:
            raise ValueError(
                f"SceneDataModule needs batch_size >= 1, num_workers >= 0 and seed >= 0, got {batch_size}, "
                f"{num_workers} and {seed}."
            )
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def setup(self, stage: str) -> None:
        """Raises ValueError where stored tokens are not those of the encoder that is trained on them."""
        model = getattr(self.trainer.lightning_module, "model", None) if self.trainer is not None else None
        for dataset in (self.train, self.val, self.test):
            for tokens in token_sets(dataset):
                tokens.check(getattr(model, "encoder", None))

    def train_dataloader(self) -> ResumableLoader:
        dataset = self._present(self.train, "train")
        run = int(getattr(dataset, "block", 1))
        batches = EpochBatches(len(dataset), self.batch_size, self.seed, run, *self._rank)  # type: ignore[arg-type]
        return ResumableLoader(self._loader(dataset, batch_sampler=batches), batches, self._position)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._in_order(self._present(self.val, "val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._in_order(self._present(self.test, "test"))

    def state_dict(self) -> dict[str, int]:
        size = 0 if self.train is None else len(self.train)  # type: ignore[arg-type]
        return {"seed": self.seed, "batch_size": self.batch_size, "size": size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        resuming = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if resuming and state != self.state_dict():
            raise ValueError(
                f"The checkpoint was trained in the order of {state}, this data module has {self.state_dict()}; resume "
                "with the same data settings, or start a new run from the weights alone."
            )

    @property
    def _rank(self) -> tuple[int, int]:
        """Which of how many training processes this is."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _in_order(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        rank, world = self._rank
        if world > len(dataset):  # type: ignore[arg-type]
            raise ValueError(f"A held-out set of {len(dataset)} items is too small for {world} processes.")  # type: ignore[arg-type]
        # Lightning's own choice would read some items twice to give all processes as many.
        share = UnrepeatedDistributedSampler(dataset, world, rank, shuffle=False) if world > 1 else None
        return self._loader(dataset, sampler=share, batch_size=self.batch_size)

    def _loader(self, dataset: Dataset[Any], **order: Any) -> DataLoader[Any]:
        keep = self.num_workers > 0
        return DataLoader(dataset, num_workers=self.num_workers, collate_fn=collate, persistent_workers=keep, **order)

    def _position(self) -> tuple[int, int]:
        """(epoch, batches of it that the trainer is done with); an overfitting run repeats epoch 0."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return 0, 0
        epoch = 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
        return epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    @staticmethod
    def _present(dataset: Dataset[Any] | None, name: str) -> Dataset[Any]:
        if dataset is None:
            raise ValueError(f"SceneDataModule was given no {name} set.")
        return dataset
