import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ocl.data.bsds500 import BSDS500, HumanSegmentations, read_segmentations
from ocl.data.collate import collate
from ocl.data.images import ImageFolder, Segmentations, center_labels, read_image
from ocl.segment import read_pixels

DATA = Path(os.environ.get("OCL_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "BSDS500"
needs_bsds = pytest.mark.skipif(
    not DATA.is_dir(), reason="BSDS500 is not there; set OCL_TEST_DATA to its parent folder"
)


class Stored(Segmentations):
    """Label maps beside the images, as arrays."""

    def segmentation(self, image):
        return np.load(image.with_suffix(".npy"))


@pytest.fixture
def folder(tmp_path):
    """Coloured regions whose labels can be read off the colours."""
    rng = np.random.default_rng(0)
    for name, shape in (("b/tall.png", (90, 40)), ("a.png", (50, 130)), ("c.png", (64, 64))):
        labels = rng.integers(0, 4, size=(-(-shape[0] // 10), -(-shape[1] // 10))).repeat(10, 0).repeat(10, 1)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((labels[: shape[0], : shape[1], None] * [60, 0, 0]).astype(np.uint8)).save(path)
        np.save(path.with_suffix(".npy"), labels[: shape[0], : shape[1]])
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_items_are_the_centres_in_the_order_of_paths(folder):
    images = ImageFolder(folder, size=40)
    assert [images.path(i).name for i in range(len(images))] == ["a.png", "tall.png", "c.png"]
    tall = np.asarray(Image.open(folder / "b" / "tall.png"))
    assert torch.equal(
        images[1]["images"], torch.from_numpy(tall[25:65].transpose(2, 0, 1).copy())
    )  # no resizing needed
    assert [images[i]["images"].shape for i in range(3)] == [(3, 40, 40)] * 3
    assert collate([images[i] for i in range(3)]).segmentation is None


@pytest.mark.parametrize("size", [32, 40, 100])
def test_labels_stay_on_their_pixels(folder, size):
    images = ImageFolder(folder, size=size, masks=Stored())
    for item, side in zip((images[i] for i in range(3)), (50, 40, 64), strict=True):
        labels = item["segmentation"].long()
        reach = math.ceil(2 * max(1, size / side))  # how far the bicubic filter mixes colours
        around = labels.double()[None].unfold(1, 2 * reach + 1, 1).unfold(2, 2 * reach + 1, 1).flatten(3)[0]
        inner = torch.zeros(size, size, dtype=torch.bool)
        inner[reach:-reach, reach:-reach] = around.amin(-1) == around.amax(-1)
        assert inner.sum() > 10
        assert torch.equal((item["images"][0].double() / 60).round().long()[inner], labels[inner])


@pytest.mark.parametrize("size", [7, 224, 321, 500])
def test_nearest_agrees_with_pillow(size):
    labels = np.random.default_rng(1).integers(0, 200, size=(321, 481)).astype(np.uint8)
    image = Image.fromarray(labels)
    expected = image.resize((size, size), Image.Resampling.NEAREST, box=(80, 0, 401, 321))
    np.testing.assert_array_equal(center_labels(labels, image, size, Path()), np.asarray(expected))


def test_what_the_images_are_does_not_depend_on_where_they_lie(folder, tmp_path):
    before = ImageFolder(folder).files_sha256
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert ImageFolder(moved).files_sha256 == before
    (moved / "c.png").unlink()
    assert ImageFolder(moved).files_sha256 != before


def test_bad_folders_and_files_are_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        ImageFolder(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no image"):
        ImageFolder(folder / "empty")
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        ImageFolder(folder, size=0)
    whole = (folder / "c.png").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"GIF89a" + whole):
        (folder / "c.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.png is not a readable image"):
            ImageFolder(folder)[2]
    np.save(folder / "a.npy", np.zeros((50, 129), int))
    with pytest.raises(ValueError, match=r"a\.png is \(50, 129\), its image \(50, 130\)"):
        ImageFolder(folder, masks=Stored())[0]


@needs_bsds
def test_bsds500_splits_and_people():
    train, val = BSDS500(DATA, "train", size=64), BSDS500(DATA, "val", size=64)
    everyone = BSDS500(DATA, "val", size=64, annotator=None)
    assert (len(train), len(val), len(everyone)) == (200, 100, 546)
    assert train.files_sha256 != val.files_sha256 == everyone.files_sha256
    maps = val.segmentations(0)
    assert maps.shape == (5, 64, 64)
    assert torch.equal(maps, torch.stack([everyone[person]["segmentation"] for person in range(5)]))
    assert all(torch.equal(BSDS500(DATA, "val", 64, person)[0]["segmentation"], maps[person]) for person in range(4))
    assert torch.equal(val[0]["images"], ImageFolder(DATA / "images" / "val", 64)[0]["images"])


@needs_bsds
def test_bsds500_people_in_random_order_are_different_people():
    orders = [
        [BSDS500(DATA, "val", 48, person, people_seed=3)[i]["segmentation"] for i in range(12)] for person in (0, 1)
    ]
    plain = BSDS500(DATA, "val", size=48)
    first = 0
    for i, drawn in enumerate(zip(*orders, strict=True)):
        people = list(plain.segmentations(i))
        found = [next(n for n, person in enumerate(people) if torch.equal(person, labels)) for labels in drawn]
        assert found[0] != found[1]
        first += found[0] == 0
    assert 0 < first < 12
    everyone = BSDS500(DATA, "val", size=48, annotator=None, people_seed=3)
    assert len(everyone) == 546
    assert torch.equal(everyone[0]["segmentation"], orders[0][0])
    assert torch.equal(everyone[1]["segmentation"], orders[1][0])


@needs_bsds
def test_bsds500_segments_cover_every_photograph():
    val = BSDS500(DATA, "val", size=224)
    batch = collate([val[i] for i in range(0, 100, 5)])
    assert batch.images.shape == (20, 3, 224, 224)
    assert batch.segmentation.min() >= 1
    assert all(labels.unique().numel() >= 2 for labels in batch.segmentation)
    masks = HumanSegmentations(DATA / "groundTruth" / "val")
    assert torch.equal(ImageFolder(DATA / "images" / "val", 224, masks)[35]["segmentation"], val[35]["segmentation"])
    nobody = HumanSegmentations(DATA / "groundTruth" / "val", annotator=99)
    with pytest.raises(ValueError, match=r"has the maps of people 0 to [3-8], none of 99"):
        ImageFolder(DATA / "images" / "val", 224, nobody)[35]


@needs_bsds
def test_bsds500_borders_follow_the_photograph():
    """Colours vary less inside people's segments than inside the same segments upside down."""
    val = BSDS500(DATA, "val", size=96)
    better = 0
    for index in range(40):
        image, labels = val[index]["images"].double(), val[index]["segmentation"]
        spread = []
        for candidate in (labels, labels.flip(0, 1)):
            ids = candidate.unique(return_inverse=True)[1].flatten()
            total = torch.zeros(3, int(ids.max()) + 1, dtype=torch.float64).index_add_(1, ids, image.flatten(1))
            mean = total / ids.bincount()
            spread.append((image.flatten(1) - mean[:, ids]).square().mean())
        better += int(spread[0] < spread[1])
    assert better >= 36  # by chance: one in ten million


@needs_bsds
def test_bsds500_refuses_what_is_damaged_or_unknown(tmp_path):
    with pytest.raises(ValueError, match="splits train, val, test, not 'all'"):
        BSDS500(DATA, "all")
    with pytest.raises(ValueError, match=r"annotator must be in 0\.\.3"):
        BSDS500(DATA, annotator=4)
    whole = next((DATA / "groundTruth" / "val").glob("*.mat")).read_bytes()
    damaged = tmp_path / "1.mat"
    rng = np.random.default_rng(0)
    with pytest.raises(FileNotFoundError, match=r"1\.mat is missing"):
        read_segmentations(damaged)
    for length in rng.integers(0, len(whole) - 1, size=50):
        damaged.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"1\.mat (is not a segmentation file|holds no label maps) of BSDS500"):
            read_segmentations(damaged)


def test_pixels_of_odd_files_are_those_of_ocl_masks(tmp_path):
    """16 bits keep their range instead of being cut at 255, and what is transparent shows white paper."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, size=(16, 16)).astype(np.uint16)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        grey = np.asarray(read_image(tmp_path / name))
        assert np.array_equal(grey, np.rint(deep / 257).astype(np.uint8)[..., None].repeat(3, axis=2))
    colours = rng.integers(0, 256, size=(16, 16, 4)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "alpha.png")
    alpha = colours[..., 3:] / 255
    expected = colours[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(read_image(tmp_path / "alpha.png")) - expected).max() <= 1
    palette = Image.fromarray(colours[..., 0] % 4)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (np.asarray(read_image(tmp_path / "palette.png"))[colours[..., 0] % 4 == 0] == 255).all()
    for name in ("deep.png", "alpha.png", "palette.png"):
        whole = np.asarray(read_image(tmp_path / name)).transpose(2, 0, 1)
        assert torch.equal(read_pixels(tmp_path / name), torch.from_numpy(whole.copy()))
    (tmp_path / "deep.tif").unlink()
    (tmp_path / "folder.png").mkdir()
    assert len(ImageFolder(tmp_path, 16)) == 3


def test_pixels_without_a_known_range_are_refused(tmp_path):
    for name, pixels in (("floating", np.zeros((4, 4), np.float32)), ("32 bits", np.full((4, 4), 70000, np.int32))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        with pytest.raises(ValueError, match=f"readable image .*{name}"):
            read_image(tmp_path / f"{name}.tif")


@pytest.mark.parametrize(("place", "value"), [(23, 0), (23, 13), (25, 1), (37, 4)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_a_decoder_raises_is_one_sentence(tmp_path, place, value):
    """Bytes of EXIF data for which Pillow raises struct.error, AttributeError and TypeError."""
    path = tmp_path / "damaged.webp"
    exif = Image.Exif()
    exif[0x0112], exif[0x0128], exif[0x011A] = 6, 2, 72.0
    Image.new("RGB", (20, 24), "red").save(path, exif=exif)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"EXIF") + 8 + place] = value
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.webp is not a readable image"):
        read_image(path)
