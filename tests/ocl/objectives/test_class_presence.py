"""Labels of the image: which classes are there, and what a single ViT learns from them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ocl.data.collate import collate
from ocl.data.twin_scenes import CLASSES, TwinScenes
from ocl.objectives.class_presence import ClassPresence
from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch, images_as_float

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def built(classes: int = len(CLASSES)) -> ClassPresence:
    return ClassPresence(TrainableViT(arguments=SMALL), classes)


def scenes(count: int) -> Batch:
    batch = collate(TwinScenes(count).__getitems__(range(count)))
    batch.images = images_as_float(batch.images)
    return batch


def test_a_class_is_present_where_a_visible_object_has_it() -> None:
    batch = scenes(64)
    expected = torch.zeros(64, 42)
    for scene, column in batch.objects["visible"].nonzero().tolist():
        expected[scene, batch.objects["class"][scene, column]] = 1
    assert torch.equal(built().present(batch), expected)
    assert set(expected.sum(1).tolist()) == {2.0}
    hidden = {"class": torch.tensor([[3, 99]]), "visible": torch.tensor([[True, False]])}
    assert built().present(Batch(torch.zeros(1, 3, 64, 64), objects=hidden)).nonzero().tolist() == [[0, 3]]


def test_the_loss_is_the_cross_entropy_of_every_class() -> None:
    model, batch = built(), scenes(8)
    logits = model.head(model.vit(batch.images)[:, 0])  # the CLS token after the final norm
    expected = F.binary_cross_entropy(logits.sigmoid(), model.present(batch))
    found = model(batch)
    torch.testing.assert_close(found["loss"], expected)
    right = ((logits > 0) == model.present(batch).bool()).all(1).float().mean()
    assert found["images_all_right"] == right


def test_it_learns_a_few_scenes_by_heart_with_gradients_everywhere() -> None:
    model, batch = built(), scenes(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        terms = model(batch)
        terms["loss"].backward()
        optimizer.step()
    assert terms["loss"] < 0.05
    assert terms["images_all_right"] == 1
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match='needs "class" of the objects; the batch has no attributes'):
        built()(Batch(torch.zeros(1, 3, 64, 64)))
    with pytest.raises(ValueError, match=r'"class" must be in 0\.\.4'):
        built(5)(scenes(16))
    with pytest.raises(ValueError, match="classes"):
        built(0)
