"""Self-distillation: closed forms of loss, centre and teacher, and views that are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ocl.data.collate import collate
from ocl.data.twin_scenes import TwinScenes
from ocl.objectives.self_distillation import SelfDistillation, cross_view_entropy
from ocl.objectives.views import MultiCrop, random_crops
from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def built(count: int = 2, **arguments) -> SelfDistillation:
    settings = {"total_steps": 100, "prototypes": 32, "hidden_dim": 24, "bottleneck": 16, **arguments}
    return SelfDistillation(TrainableViT(arguments=SMALL), MultiCrop(count=count), **settings)


def images(count: int = 4) -> Tensor:
    return collate(TwinScenes(count).__getitems__(range(count))).images / 255


def test_cross_entropy_leaves_out_equal_views() -> None:
    targets, guesses = torch.randn(2, 3, 5).softmax(-1), torch.randn(4, 3, 5).log_softmax(-1)
    terms = [-(targets[t] * guesses[v]).sum(-1).mean() for t in range(2) for v in range(4) if t != v]
    assert len(terms) == 6
    torch.testing.assert_close(cross_view_entropy(targets, guesses), torch.stack(terms).mean())


def test_the_loss_is_centred_and_sharpened() -> None:
    model, pixels = built(), images()
    model.centre.uniform_(-0.5, 0.5)
    torch.manual_seed(3)
    found = model.eval()(Batch(pixels))
    torch.manual_seed(3)
    large, small = model.views(pixels)
    answers = model.head(model.vit.pooled(large))
    targets = ((answers - model.centre) / 0.04).softmax(-1).view(2, 4, 32)
    guesses = torch.cat([model.student_head(model.student.pooled(views)) / 0.1 for views in (large, small)])
    expected = cross_view_entropy(targets, guesses.log_softmax(-1).view(4, 4, 32))
    torch.testing.assert_close(found["loss"], expected)
    assert answers.abs().max() <= 1 + 1e-6, "cosines"


def test_the_centre_is_a_moving_mean_of_what_the_teacher_says_in_training() -> None:
    model, pixels = built(centre_momentum=0.9), images()
    expected = torch.zeros(32)
    for step in range(3):
        torch.manual_seed(step)
        model(Batch(pixels))
        torch.manual_seed(step)
        answers = model.head(model.vit.pooled(model.views(pixels)[0]))
        expected = 0.9 * expected + 0.1 * answers.mean(0)
    torch.testing.assert_close(model.centre, expected)
    model.eval()(Batch(pixels))
    torch.testing.assert_close(model.centre, expected)


def test_the_teacher_follows_with_the_momentum_of_the_step() -> None:
    model = built(teacher_momentum=0.9, total_steps=4)
    before = [parameter.clone() for parameter in model.vit.parameters()]
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1)
    left = 1.0  # what is left of the distance to a student that stands still
    for step in range(6):
        model.after_step()
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * min(step / 4, 1)) + 1) / 2
        left *= momentum
        for old, new in zip(before, model.vit.parameters(), strict=True):
            torch.testing.assert_close(new - old, torch.full_like(old, 1 - left), atol=2e-6, rtol=0)
    assert int(model.steps) == 6


def test_the_teacher_has_no_randomness_of_its_own() -> None:
    vit = TrainableViT(arguments={**SMALL, "drop_path_rate": 0.5})
    model = SelfDistillation(vit, MultiCrop(count=1), 10, prototypes=32).train()
    pixels = images()
    with torch.no_grad():
        assert torch.equal(model.vit.pooled(pixels), model.vit.pooled(pixels))
        assert not torch.equal(model.student.pooled(pixels), model.student.pooled(pixels))
    assert model.student_head.training
    assert not model.eval().student.training


def test_logits_and_loss_stay_in_float32_where_the_network_is_in_bfloat16() -> None:
    """The cosines are divided by 0.04: rounded to bfloat16 they would be off by up to 0.1."""
    model = built()
    assert isinstance(model.head, torch.nn.Module)
    pixels, hidden = images(), torch.randn(5, 48)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(Batch(pixels))
        cosines = model.head(hidden)
        directions = model.head.layers(hidden).float()
        entropy = cross_view_entropy(torch.ones(2, 3, 7) / 7, torch.full((2, 3, 7), -1.2345678))
    assert cosines.dtype == found["loss"].dtype == torch.float32
    torch.testing.assert_close(
        cosines, torch.cosine_similarity(directions[:, None], model.head.prototypes, dim=-1), atol=1e-6, rtol=0
    )
    assert entropy.item() == pytest.approx(1.2345678, rel=1e-6)
    assert model.centre.dtype == torch.float32
    assert model.centre.any()


def test_gradients_reach_the_student_and_nothing_else() -> None:
    model = built()
    model(Batch(images()))["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("vit.", "head.")):
            assert not parameter.requires_grad
            assert parameter.grad is None
        elif parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name


def test_crops_are_rectangles_of_the_asked_share() -> None:
    size = 64
    ramp = (torch.arange(size) + 0.5) / size
    image = torch.stack([ramp.expand(size, -1), ramp[:, None].expand(-1, size), torch.ones(size, size)])
    crops = random_crops(image.expand(2000, -1, -1, -1), 32, (0.25, 0.5))
    step_x, step_y = (crops[:, 0].diff(dim=2), crops[:, 1].diff(dim=1))
    inner = slice(2, -2)  # the outermost pixels may touch the border of the image, where colours stop changing
    width, height = (32 * step[:, inner, inner].mean((1, 2)) for step in (step_x, step_y))
    assert (height > 0).all()
    assert 0.45 < (width < 0).float().mean() < 0.55
    area, ratio = width.abs() * height, width.abs() / height
    assert 0.25 - 1e-3 <= area.min() < 0.26
    assert 0.49 < area.max() <= 0.5 + 1e-3
    assert 3 / 4 - 1e-3 <= ratio.min() < ratio.max() <= 4 / 3 + 1e-3
    centre = crops[:, :2].mean((2, 3))
    assert (centre.mean(0) - 0.5).abs().max() < 0.02
    assert (crops[:, 2] - 1).abs().max() < 1e-5, "weights of a bilinear reading sum to one"


def test_views_come_view_by_view_and_in_range() -> None:
    pixels = images(4)
    large, small = MultiCrop(count=3)(pixels)
    assert large.shape == (8, 3, 64, 64)
    assert small.shape == (12, 3, 32, 32)
    assert large.min() >= 0
    assert large.max() <= 1
    pure = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1).expand(2000, 3, 16, 16)
    views, none = MultiCrop(16, 8, count=0, jitter=0.4)(pure)
    assert none.shape == (0, 3, 8, 8)
    color = views.mean((2, 3))
    share = ((color - color.mean(1, keepdim=True)).abs().amax(1) < 1e-6).float().mean()  # grey ones
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    kept = ((color - pure[0, :, 0, 0]).abs().amax(1) < 1e-6).float().mean()
    assert abs(kept - 0.8 * 0.2) < 4 * (0.16 * 0.84 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_temperature": 0.0}, "temperatures"),
        ({"centre_momentum": 1.5}, "momenta"),
        ({"total_steps": 0}, "step"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**arguments)


def test_views_that_patches_do_not_divide_are_refused() -> None:
    vit = TrainableViT(arguments=SMALL)
    with pytest.raises(ValueError, match=r"views must be multiples of the patch size \(8, 8\), got \[64, 30\] pixels"):
        SelfDistillation(vit, MultiCrop(64, 30, 2), 10)
    assert SelfDistillation(vit, MultiCrop(64, 30, 0), 10).views.count == 0


def test_bad_views_are_refused() -> None:
    with pytest.raises(ValueError, match="shares"):
        MultiCrop(small_share=(0.4, 0.1))
    with pytest.raises(ValueError, match="jitter"):
        MultiCrop(jitter=1.0)
