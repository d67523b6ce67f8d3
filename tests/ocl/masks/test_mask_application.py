"""Masks applied to images, against Pillow and torchvision mask by mask, at 480 x 640."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image

from ocl.masks.apply import Alpha, Black, Blur, Grey, GreyCrop, OccamV1, Unmasked
from ocl.masks.framing import AroundImage, AroundMask, CentreSquare, mask_boxes
from ocl.masks.resampling import Squares, resample

SIZE = 224
APPLICATIONS = [GreyCrop, Grey, Black, Blur, Alpha, Unmasked, OccamV1]


def rectangle(top, left, height, width, size=(480, 640)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def some_masks():
    """Large and small, at borders and corners, full width, full height, one pixel, a ring, empty."""
    ring = rectangle(100, 200, 201, 150)
    ring[130:200, 230:300] = False
    boxes = [
        (10, 20, 37, 52),
        (0, 0, 480, 640),
        (200, 0, 61, 640),
        (0, 300, 480, 33),
        (479, 639, 1, 1),
        (440, 0, 40, 90),
    ]
    return torch.stack([*(rectangle(*box) for box in boxes), ring, torch.zeros(480, 640, dtype=torch.bool)])[None]


def with_pillow(image, mask, size, fill):
    """One mask, one channel after the other, in 32-bit floats: the square around the box, `fill` beyond the image."""
    rows, columns = np.nonzero(mask.numpy())
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = max(bottom - top, right - left)
    top, left = (top + bottom - side) // 2, (left + right - side) // 2

    def crop(channel):
        cut = Image.fromarray(channel.astype(np.float32)).crop((left, top, left + side, top + side))
        return np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))

    alpha = crop(mask.numpy())
    return torch.tensor(np.stack([crop(c - fill) + fill for c in image.numpy()]) * alpha + fill * (1 - alpha))


def test_grey_crop_equals_pillow():
    image, masks = torch.rand(1, 3, 480, 640), some_masks()
    found = GreyCrop(SIZE, fill=0.4)(image, masks)
    for number in range(7):
        expected = with_pillow(image[0], masks[0, number], SIZE, 0.4)
        torch.testing.assert_close(found[0, number], expected, atol=1e-5, rtol=0)
    assert (found[0, 7] == 0.4).all()  # the empty mask
    # A wide bar in its square: exactly fill above and below it.
    assert torch.equal(found[0, 2, :, : SIZE // 3], torch.full((3, SIZE // 3, SIZE), 0.4))


@pytest.mark.parametrize("application", APPLICATIONS)
def test_all_masks_at_once_equal_one_by_one(application):
    images, masks = torch.rand(3, 3, 96, 128), torch.rand(3, 5, 96, 128)
    masks = F.avg_pool2d(masks, 31, 1, 15)
    masks = masks * (masks > 0.52)
    apply = application(32)
    together = apply(images, masks)
    for image in range(3):
        for mask in range(5):
            alone = apply(images[image : image + 1], masks[image : image + 1, mask : mask + 1])
            torch.testing.assert_close(together[image, mask], alone[0, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(7, 7), (24, 24), (40, 17)])
def test_resampling_equals_torchvision_in_double(size):
    images = torch.rand(2, 3, 30, 45, dtype=torch.float64)
    left, top, side = torch.randint(-20, 40, (2, 9)), torch.randint(-20, 25, (2, 9)), torch.randint(1, 60, (2, 9))
    found = resample(images, Squares(left, top, side, 60), size)
    for image in range(2):
        for k in range(9):
            cut = TF.crop(images[image], int(top[image, k]), int(left[image, k]), *(int(side[image, k]),) * 2)
            expected = TF.resize(cut, list(size), antialias=True)
            torch.testing.assert_close(found[image, k], expected, atol=1e-12, rtol=0)


def test_stripes_too_fine_for_the_output_become_their_mean():
    stripes = (torch.arange(640) % 2).float().expand(1, 3, 640, 640)
    shown = GreyCrop(128)(stripes, torch.ones(1, 1, 640, 640))
    torch.testing.assert_close(shown[..., 2:-2], torch.full_like(shown[..., 2:-2], 0.5), atol=0.021, rtol=0)
    bare = F.grid_sample(stripes, F.affine_grid(torch.eye(2, 3)[None], [1, 3, 128, 128], False), align_corners=False)
    assert (bare - 0.5).abs().max() > 0.45  # bilinear without antialiasing


def test_a_wide_object_is_shown_whole_and_the_published_code_shows_three_quarters():
    ramp = ((torch.arange(640) + 0.5) / 640).expand(1, 3, 480, 640)
    mask = rectangle(230, 0, 20, 640)[None, None]
    row = GreyCrop(SIZE)(ramp, mask)[0, 0, 0, SIZE // 2]
    torch.testing.assert_close(row, (torch.arange(SIZE) + 0.5) / SIZE, atol=2e-3, rtol=0)
    row = OccamV1(SIZE)(ramp, mask)[0, 0, 0, SIZE // 2]
    torch.testing.assert_close(row[[0, -1]], torch.tensor([0.125, 0.875]), atol=5e-3, rtol=0)


def test_the_square_holds_the_box_and_the_published_one_misses_a_line_of_even_boxes():
    masks = torch.stack([rectangle(40, 60, h, w) for h, w in ((8, 8), (9, 9), (8, 3), (3, 8), (5, 8), (8, 5))])[None]
    boxes = mask_boxes(masks)
    for published, missed in ((False, [0, 0, 0, 0, 0, 0]), (True, [1, 0, 1, 1, 1, 1])):
        squares = AroundMask(published=published)(masks)
        assert (squares.side == (boxes[..., 2:] - boxes[..., :2]).amax(-1)).all()
        over = torch.maximum(boxes[..., 2] - squares.left, boxes[..., 3] - squares.top) - squares.side
        assert over[0].tolist() == missed
        assert (squares.left <= boxes[..., 0]).all()
        assert (squares.top <= boxes[..., 1]).all()


def test_room_around_the_box_is_a_share_of_its_longer_side():
    squares = AroundMask(pad_ratio=0.25)(rectangle(100, 200, 40, 80)[None, None])
    assert [int(x) for x in (squares.left, squares.top, squares.side)] == [180, 60, 120]
    filled = GreyCrop(120, pad_ratio=0.25, fill=0.0)(
        torch.ones(1, 3, 480, 640), rectangle(100, 200, 40, 80)[None, None]
    )
    assert filled.sum() == 3 * 40 * 80  # side 120 at 120 pixels: nothing is resized


def test_room_beyond_the_image_is_fill():
    """The square of a whole image with room on either side is larger than the image."""
    image = torch.rand(1, 3, 480, 480)
    found = GreyCrop(SIZE, pad_ratio=0.5, fill=0.3)(image, torch.ones(1, 1, 480, 480))[0, 0]
    expected = TF.resize(TF.pad(image[0].double(), [240] * 4, fill=0.3), [SIZE, SIZE], antialias=True)
    alpha = TF.resize(TF.pad(torch.ones(1, 480, 480).double(), [240] * 4), [SIZE, SIZE], antialias=True)
    expected = 0.3 + alpha * (expected - 0.3)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def published_code(image, mask, size):
    """What the public code does to one mask, through torchvision."""
    places = mask.nonzero()
    first, last = places.amin(0), places.amax(0)
    top, left = ((first + last) // 2 - (last - first + 1).max() // 2).tolist()
    side = int((last - first + 1).max())

    def stretched(x):
        return TF.resize(TF.crop(x, top, left, side, side), list(mask.shape), antialias=True)

    alpha = stretched(mask[None].to(image))
    pictures = stretched(image) * alpha + 0.5 * (1 - alpha)
    return TF.center_crop(TF.resize(pictures, [size], antialias=True), [size, size])


@pytest.mark.parametrize(("height", "width"), [(480, 640), (333, 500), (500, 333), (256, 256)])
def test_occam_v1_equals_the_published_steps(height, width):
    image = torch.rand(1, 3, height, width)
    masks = torch.stack(
        [rectangle(*box, (height, width)) for box in ((10, 20, 80, 61), (0, 5, height, 9), (99, 0, 1, 1))]
    )
    found = OccamV1(SIZE)(image, masks[None])
    for number, mask in enumerate(masks):
        exact = published_code(image[0].double(), mask, SIZE)
        rounding = (published_code(image[0], mask, SIZE) - exact).abs().max()  # torchvision's, in 32 bits
        assert (found[0, number] - exact).abs().max() <= rounding + 1e-6 < 3e-5


@pytest.mark.parametrize("application", APPLICATIONS)
def test_gradients_reach_image_and_soft_mask(application):
    images, masks = torch.rand(2, 3, 48, 64, requires_grad=True), torch.rand(2, 3, 48, 64, requires_grad=True)
    (application(16)(images, masks) * torch.rand(16)).sum().backward()
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.4  # OccamV1 and squares of boxes show a part only
    if application is Unmasked:
        assert masks.grad is None
    else:
        assert masks.grad.isfinite().all()
        assert (masks.grad != 0).float().mean() > 0.4


def test_resampling_has_the_gradient_of_its_differences():
    images = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    squares = Squares(torch.tensor([[-1, 2]]), torch.tensor([[0, 1]]), torch.tensor([[7, 2]]), 7)
    assert torch.autograd.gradcheck(lambda x: resample(x, squares, (4, 3)), (images,))


@pytest.mark.parametrize("application", APPLICATIONS)
def test_no_masks_and_no_images_give_empty_outputs(application):
    channels = 4 if application is Alpha else 3
    assert application(16)(torch.rand(2, 3, 20, 30), torch.zeros(2, 0, 20, 30)).shape == (2, 0, channels, 16, 16)
    empty = application(16)(torch.rand(0, 3, 20, 30), torch.zeros(0, 4, 20, 30, dtype=torch.bool))
    assert empty.shape == (0, 4, channels, 16, 16)


def test_an_empty_mask_shows_fill_alone():
    images, masks = torch.rand(1, 3, 30, 40), torch.zeros(1, 2, 30, 40)
    for apply, fill in ((GreyCrop(16), 0.5), (Grey(16, fill=0.2), 0.2), (Black(16), 0.0)):
        assert (apply(images, masks) == fill).all()
    torch.testing.assert_close(OccamV1(16)(images, masks), torch.full((1, 2, 3, 16, 16), 0.5))
    assert (Alpha(16)(images, masks)[:, :, 3] == 0).all()
    torch.testing.assert_close(Alpha(16)(images, masks)[:, :, :3], Unmasked(16)(images, masks))


def test_bool_uint8_and_float_inputs_agree():
    images, masks = torch.randint(0, 256, (1, 3, 480, 640), dtype=torch.uint8), some_masks()
    for apply in (GreyCrop(SIZE), Alpha(SIZE)):
        torch.testing.assert_close(apply(images, masks), apply(images.double() / 255, masks.double()))


def test_the_whole_image_keeps_its_aspect():
    image = torch.rand(1, 3, 30, 60)
    found = Unmasked(60, fill=0.3)(image, torch.ones(1, 1, 30, 60))[0, 0]
    torch.testing.assert_close(found[:, 15:45], image[0])
    torch.testing.assert_close(found[:, :15], torch.full((3, 15, 60), 0.3))
    centre = Unmasked(30, CentreSquare())(image, torch.ones(1, 1, 30, 60))[0, 0]
    torch.testing.assert_close(centre, image[0, :, :, 15:45])


def test_alpha_is_the_resized_mask_and_blur_keeps_the_segment():
    image, mask = torch.rand(1, 3, 64, 64), rectangle(16, 16, 32, 32, (64, 64))[None, None]
    shown = Alpha(64)(image, mask)[0, 0]
    assert torch.equal(shown[3], mask[0, 0].float())
    torch.testing.assert_close(shown[:3], image[0])
    blurred = Blur(64)(image, mask)[0, 0]
    torch.testing.assert_close(blurred[:, 16:48, 16:48], image[0, :, 16:48, 16:48])
    expected = TF.gaussian_blur(image[0], [15, 15], [2.6, 2.6])
    torch.testing.assert_close(blurred[:, :16], expected[:, :16])


def test_boxes_of_soft_masks_take_the_upper_half_of_their_own_range():
    faint = 0.2 * rectangle(5, 8, 4, 6, (20, 30)).float() + 0.05 * rectangle(0, 0, 20, 15, (20, 30)).float()
    assert mask_boxes(faint[None, None]).flatten().tolist() == [8, 5, 14, 9]
    assert mask_boxes(torch.zeros(1, 1, 20, 30)).flatten().tolist() == [0, 0, 0, 0]
    assert mask_boxes(torch.zeros(2, 0, 20, 30)).shape == (2, 0, 4)


def test_frames_of_an_empty_mask_are_the_whole_image():
    empty = torch.zeros(1, 1, 20, 30)
    around, whole = AroundMask()(empty), AroundImage()(empty)
    assert (around.left, around.top, around.side) == (whole.left, whole.top, whole.side)


def test_bad_input_is_refused():
    images, masks = torch.rand(2, 3, 20, 30), torch.rand(2, 4, 20, 30)
    for wrong in (masks[:1], masks[..., :29], masks[:, 0], (masks > 0.5).long()):
        with pytest.raises(ValueError, match=r"masks must be \(2, K, 20, 30\)"):
            GreyCrop(16)(images, wrong)
    with pytest.raises(ValueError, match="size must be at least 1"):
        Grey(0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        OccamV1(0)
    with pytest.raises(ValueError, match="pad_ratio"):
        GreyCrop(16, pad_ratio=-1)
    with pytest.raises(ValueError, match="odd"):
        Blur(16, kernel=4)
    with pytest.raises(ValueError, match="needs images of 8"):
        Blur(16)(torch.rand(1, 3, 7, 30), torch.rand(1, 1, 7, 30))


@pytest.mark.parametrize("ratio", [0.1, 0.15, 0.3, 0.6, 1 / 3, 1.1])
def test_no_square_is_larger_than_it_says(ratio):
    """The number of pixels that are mixed follows from the largest side: one too few would be cut off unseen."""
    for length in range(1, 400):
        squares = AroundMask(ratio)(torch.ones(1, 1, 1, length, dtype=torch.bool))
        assert int(squares.side) == squares.largest
