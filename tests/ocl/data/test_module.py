import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from ocl.data.collate import collate
from ocl.data.module import SceneDataModule
from ocl.data.order import EpochBatches
from ocl.data.scenes import Scenes
from ocl.shapes import Batch


class Numbered(Scenes):
    """Scenes that know their number: (block's random key, row)."""

    image_size = (2, 2)
    max_objects = 1

    def generate(self, generator, count):
        return {
            "images": np.zeros((count, 3, 2, 2), np.uint8),
            "segmentation": np.ones((count, 2, 2), np.uint8),
            "visible": np.ones((count, 1), bool),
            "key": generator.random((count, 1)),
        }


class Recorder(LightningModule):
    """Remembers which scenes each step saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch: Batch, index: int):
        self.seen.append((self.current_epoch, index, tuple(batch.objects["key"].flatten().tolist())))
        return self.weight * 1.0

    def validation_step(self, batch: Batch, index: int):
        assert len(batch) == 8

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, resume=None, workers=0, checkpoints=None, **trainer):
    torch.manual_seed(0)
    module = Recorder()
    data = SceneDataModule(Numbered(84, block=4), val=Numbered(16, seed=1), batch_size=8, num_workers=workers, seed=5)
    callbacks = [ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **checkpoints)] if checkpoints else []
    run = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    )
    run.fit(module, data, ckpt_path=resume)
    return module.seen


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 25}, {"max_epochs": 5, "limit_train_batches": 7}])
@pytest.mark.parametrize(
    "checkpoints", [{"every_n_train_steps": 3}, {"every_n_epochs": 1}, {"every_n_train_steps": 10}], ids=str
)
def test_resume_sees_the_batches_of_the_uninterrupted_run(tmp_path, length, checkpoints):
    whole = fit(tmp_path, checkpoints=checkpoints, **length)
    found = sorted(tmp_path.glob("*.ckpt"))
    assert len(found) >= 2
    for path in found:
        step = torch.load(path, weights_only=False)["global_step"]
        assert fit(tmp_path, resume=path, **length) == whole[step:]


def test_resume_with_validation_inside_the_epoch(tmp_path):
    length = {"max_epochs": 2, "val_check_interval": 4}
    whole = fit(tmp_path, checkpoints={"every_n_train_steps": 2}, **length)
    for path in tmp_path.glob("*.ckpt"):
        step = torch.load(path, weights_only=False)["global_step"]
        assert fit(tmp_path, resume=path, **length) == whole[step:]


def test_workers_change_nothing_also_after_a_resume(tmp_path):
    alone = fit(tmp_path / "alone", max_epochs=2)
    assert fit(tmp_path, workers=2, checkpoints={"every_n_train_steps": 7}, max_epochs=2) == alone
    for step in (7, 14):  # in the first and in the second epoch
        assert fit(tmp_path, resume=tmp_path / f"step={step}.ckpt", workers=2, max_epochs=2) == alone[step:]


def test_every_epoch_is_another_order_of_the_same_set(tmp_path):
    seen = fit(tmp_path, max_epochs=2)
    first, second = (sum((keys for e, _, keys in seen if e == epoch), ()) for epoch in (0, 1))
    assert len(set(first)) == 80  # 84 scenes, the incomplete batch dropped
    assert first != second
    assert len(set(first) | set(second)) <= 84


def test_overfitting_repeats_one_batch(tmp_path):
    assert len({keys for _, _, keys in fit(tmp_path, max_epochs=3, overfit_batches=1)}) == 1


def test_resume_in_another_order_is_refused(tmp_path):
    fit(tmp_path, checkpoints={"every_n_train_steps": 3}, max_epochs=1)
    data = SceneDataModule(Numbered(84, block=4), batch_size=4, seed=5)
    run = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1)
    with pytest.raises(ValueError, match="resume with the same data settings"):
        run.fit(Recorder(), data, ckpt_path=tmp_path / "step=3.ckpt")


def test_order_is_a_permutation_that_keeps_runs():
    batches = EpochBatches(1000, 8, seed=1, run=16)
    batches.begin(3)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(1000))
    starts = [place for place in range(0, 1000) if order[place] % 16 == 0]
    for place in starts:
        run = order[place : place + 16]
        assert run[: 8 if run[0] == 992 else 16] == list(range(run[0], min(run[0] + 16, 1000)))
    assert order != sorted(order)
    batches.begin(3, start=100)
    assert [index for batch in batches for index in batch] == order[800:]


def test_processes_share_an_epoch_without_overlap():
    alone = EpochBatches(1001, 5, seed=2)
    ranks = [EpochBatches(1001, 5, seed=2, rank=rank, world=3) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [66] * 3
    merged = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert merged == list(alone)[:198]


def test_collate_makes_a_batch():
    scenes = Numbered(10)
    batch = collate([scenes[i] for i in range(3)])
    assert batch.images.shape == (3, 3, 2, 2)
    assert batch.images.dtype == torch.uint8
    assert batch.segmentation.dtype == torch.int64
    assert set(batch.objects) == {"visible", "key"}
    assert torch.equal(batch.objects["key"][2], scenes[2]["key"])
    assert collate([{"images": torch.zeros(3, 2, 2)}]).segmentation is None


def test_collate_refuses_what_does_not_stack():
    image = torch.zeros(3, 2, 2)
    with pytest.raises(ValueError, match="at least one"):
        collate([])
    with pytest.raises(ValueError, match='must hold "images"'):
        collate([{"image": image}])
    with pytest.raises(ValueError, match="same fields"):
        collate([{"images": image}, {"images": image, "visible": torch.ones(1)}])
    with pytest.raises(ValueError, match='"images" has different shapes'):
        collate([{"images": image}, {"images": torch.zeros(3, 2, 3)}])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size >= 1"):
        SceneDataModule(batch_size=0)
    with pytest.raises(ValueError, match="no val set"):
        SceneDataModule().val_dataloader()
    with pytest.raises(ValueError, match="5 items does not fill one batch of 8"):
        SceneDataModule(Numbered(5), batch_size=8).train_dataloader()
