"""Geometry, packing, boxes, small regions and checkpoints of SAM."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide

import ocl.cli
from ocl.commands import exit_with_sentence
from ocl.masks.sam import load_sam, random_sam
from ocl.masks.sam.candidates import mask_boxes, pack, stability_score, unpack
from ocl.masks.sam.frame import Frame
from ocl.masks.sam.small_regions import without_small_regions


@pytest.mark.parametrize("size", [(480, 640), (1200, 900), (333, 1000), (7, 5), (1024, 1024)])
def test_enlarging_is_two_interpolations(size: tuple[int, int]) -> None:
    shape: Any = SimpleNamespace(
        image_encoder=SimpleNamespace(img_size=1024),
        prompt_encoder=SimpleNamespace(image_embedding_size=(64, 64)),
        device=torch.device("cpu"),
    )
    frame, transform = Frame(size, shape), ResizeLongestSide(1024)
    assert frame.resized == transform.get_preprocess_shape(*size, 1024)
    logits = torch.randn(2, 256, 256, dtype=torch.float64)
    expected = Sam.postprocess_masks(shape, logits[:, None], frame.resized, size)[:, 0]
    torch.testing.assert_close(frame.enlarge(logits), expected, atol=1e-12, rtol=0)
    boxes = torch.rand(3, 4, dtype=torch.float64) * 100
    torch.testing.assert_close(frame.to_input(boxes).numpy(), transform.apply_boxes(boxes.numpy(), size))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (3, 1)])
def test_packing_keeps_every_pixel_in_an_eighth(size: tuple[int, int]) -> None:
    masks = torch.rand(20, *size) < 0.5
    packed = pack(masks)
    assert packed.shape == (20, -(-size[0] * size[1] // 8))
    assert torch.equal(unpack(packed, size), masks)
    np.testing.assert_array_equal(packed.numpy(), np.packbits(masks.flatten(1).numpy(), axis=1, bitorder="little"))
    assert torch.equal(unpack(packed[3:5], size), masks[3:5])


def test_boxes_and_stability_are_the_package_s() -> None:
    logits = torch.randn(50, 13, 17) - torch.linspace(0, 4, 50)[:, None, None]
    masks = logits > 0
    assert (~masks.flatten(1).any(dim=1)).any()
    assert torch.equal(mask_boxes(masks), batched_mask_to_box(masks))
    ours, package = stability_score(logits, 0.0, 1.0), calculate_stability_score(logits, 0.0, 1.0)
    assert ours.isnan().any()
    assert ours.tolist() == pytest.approx(package.tolist(), abs=0, nan_ok=True)


def test_small_regions_by_hand() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a hole of one pixel
    mask[7, 8:10] = True
    mask[8, 10] = True  # with the two above, over the corner: an island of three
    mask[0, 11] = True  # an island of one
    cleaned, changed = without_small_regions(mask, 2)
    expected = mask.copy()
    expected[3, 3], expected[0, 11] = True, False
    assert changed
    np.testing.assert_array_equal(cleaned, expected)
    unchanged, changed = without_small_regions(expected, 2)
    assert not changed
    np.testing.assert_array_equal(unchanged, expected)
    apart = np.zeros((9, 12), dtype=bool)
    apart[1, 1:3], apart[5, 5:8], apart[8, 1:4] = True, True, True
    kept, changed = without_small_regions(apart & (np.arange(9)[:, None] < 7), 5)
    assert changed
    assert kept[5, 5:8].all()  # every island is small: the largest stays
    assert kept.sum() == 3


def test_no_small_region_is_left() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(80, 90)), 1.5) > 0
    cleaned, changed = without_small_regions(mask, 40)
    assert changed
    for inside in (cleaned, ~cleaned):
        regions, _ = ndimage.label(inside, np.ones((3, 3)))
        assert np.bincount(regions.ravel())[1:].min() >= 40


def test_random_weights_are_seeded() -> None:
    def small(seed: int) -> dict[str, torch.Tensor]:
        return random_sam(seed, image_size=64, width=32, depth=1, heads=2, global_layers=()).state_dict()

    state = torch.get_rng_state()
    first, again, other = small(0), small(0), small(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["image_encoder.patch_embed.proj.weight"], other["image_encoder.patch_embed.proj.weight"]
    )


def test_checkpoints_are_loaded_or_refused(tmp_path: Path) -> None:
    from segment_anything import sam_model_registry

    with pytest.raises(FileNotFoundError, match=r"download https://\S+/sam_vit_b_01ec64.pth and put it there"):
        load_sam(tmp_path / "none.pth", "vit_b")
    with pytest.raises(ValueError, match="size must be one of"):
        load_sam(tmp_path / "none.pth", "vit_s")  # type: ignore[arg-type]
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="no checkpoint of weights or is cut off"):
        load_sam(tmp_path / "page.pth", "vit_b")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weights of SAM"):
        load_sam(tmp_path / "other.pth", "vit_b")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}, tmp_path / "large.pth")
    with pytest.raises(ValueError, match="size vit_l"):
        load_sam(tmp_path / "large.pth", "vit_b")
    with pytest.raises(ValueError, match="does not hold the parameters of vit_l"):
        load_sam(tmp_path / "large.pth", "vit_l")

    model = sam_model_registry["vit_b"]()
    torch.save(model.state_dict(), tmp_path / "base.pth")
    loaded = load_sam(tmp_path / "base.pth", "vit_b")
    assert not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    cut = (tmp_path / "base.pth").read_bytes()[: 2**20]
    (tmp_path / "base.pth").write_bytes(cut)
    with pytest.raises(ValueError, match="cut off"):
        load_sam(tmp_path / "base.pth", "vit_b")


def test_a_missing_checkpoint_is_one_sentence_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[4] / "configs" / "masks" / "sam_vit_b.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        exit_with_sentence(lambda: ocl.cli.main(["masks", f"--config={config}"]))
    name = "sam_vit_b_01ec64.pth"
    assert capsys.readouterr().err == (
        f"error: There is no SAM checkpoint weights/sam/{name}; "
        f"download https://dl.fbaipublicfiles.com/segment_anything/{name} and put it there.\n"
    )
    assert not (tmp_path / "runs").exists()


def test_images_too_thin_for_sam_are_refused() -> None:
    shape: Any = SimpleNamespace(image_encoder=SimpleNamespace(img_size=1024))
    assert Frame((1, 2048), shape).resized == (1, 1024)
    with pytest.raises(ValueError, match="too thin"):
        Frame((1, 3000), shape)
