"""Moving scenes: tracks that obey their law, labels and pixels that obey the tracks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ocl.data.backgrounds import NoiseBackground, PlainBackground
from ocl.data.collate import collate
from ocl.data.moving_scenes import MovingScenes, reflected
from ocl.data.sprites import SpriteRenderer


def items(count: int = 24, **settings: object) -> list[dict[str, torch.Tensor]]:
    return MovingScenes(count, 3, **settings).__getitems__(range(count))


def test_a_batch_of_clips() -> None:
    batch = collate(items(4, frames=5, image_size=32))
    assert batch.images.shape == (4, 5, 3, 32, 32)
    assert batch.segmentation is not None
    assert batch.segmentation.shape == (4, 5, 32, 32)
    assert batch.objects["visible"].shape == (4, 5, 5)
    assert batch.objects["position"].shape == (4, 5, 5, 2)


def test_a_clip_depends_on_seed_and_index_alone() -> None:
    one, other = MovingScenes(20, 1), MovingScenes(9, 1)
    assert all(torch.equal(value, other[8][name]) for name, value in one[8].items())
    assert not torch.equal(one[8]["images"], MovingScenes(20, 2)[8]["images"])


def test_labels_are_the_sprites_drawn_at_the_tracks() -> None:
    renderer = SpriteRenderer(64)
    for item in items(6):
        present = item["present"].numpy()
        for frame, segmentation in enumerate(item["segmentation"]):
            position = item["position"][frame].numpy().astype(np.float64)
            position[:, 1] = 1 - position[:, 1]
            arguments = (
                position,
                item["shape"].numpy(),
                item["color"].numpy(),
                item["scale"].double().numpy(),
                present,
            )
            drawn = renderer.render(*(value[None] for value in arguments))[1][0]
            # Positions are stored in float32, which moves a stamp by a tenth of a pixel where rounding was on the edge.
            assert (drawn != segmentation.numpy()).mean() < 0.005
            labels = set(segmentation.unique().tolist()) - {0}
            assert labels == {m + 1 for m in range(5) if item["visible"][frame, m]}


def test_without_texture_and_brightness_sprites_have_their_colors_on_black() -> None:
    for item in items(4, texture=0.0, contrast=1.0, brightness=0.0):
        paint = torch.from_numpy(SpriteRenderer(64).palette)[item["color"]]  # (M 3)
        painted = torch.cat([torch.zeros(1, 3), paint])[item["segmentation"].long()]  # (T H W 3)
        assert torch.equal(item["images"], painted.permute(0, 3, 1, 2).to(torch.uint8))


def test_still_objects_under_a_moving_camera_shift_with_the_background() -> None:
    for item in items(8, speed=(0, 0), pan=0.05, bouncing=0.0, backgrounds=[NoiseBackground()]):
        pixels = (item["camera"] * 64).round().long()
        torch.testing.assert_close(item["position"] + item["camera"][:, None], item["position"][:1].expand(8, -1, -1))
        for (right, down), image, labels in zip(pixels.tolist(), item["images"], item["segmentation"], strict=True):
            here = (slice(max(0, -down), 64 - max(0, down)), slice(max(0, -right), 64 - max(0, right)))
            first = (slice(max(0, down), 64 + min(0, down)), slice(max(0, right), 64 + min(0, right)))
            assert torch.equal(image[:, *here], item["images"][0][:, *first])
            assert torch.equal(labels[here], item["segmentation"][0][first])


def test_objects_that_bounce_stay_in_view_at_constant_speed() -> None:
    for item in items(bouncing=1.0, pan=0.0, frames=40):
        margin = item["scale"][:, None] / 2
        assert (item["position"] >= margin - 1e-6).all()
        assert (item["position"] <= 1 - margin + 1e-6).all()
        steps = item["position"].diff(dim=0).abs()  # each axis keeps its speed but in the frames of a bounce
        usual = steps.median(dim=0).values
        turned = (steps - usual).abs() > 1e-5
        assert turned.float().mean() < 0.25
        assert (steps <= usual + 1e-5).all()


def test_reflection_by_hand() -> None:
    free = np.array([0.1, 0.5, 0.9, 1.0, 1.2, 1.7, 1.8, -0.1])
    np.testing.assert_allclose(reflected(free, np.array(0.1)), [0.1, 0.5, 0.9, 0.8, 0.6, 0.1, 0.2, 0.3])


def test_others_go_straight_enter_and_leave() -> None:
    entered, left, hidden = 0, 0, 0
    for item in items(48, bouncing=0.0, pan=0.02, frames=12):
        world = (item["position"] + item["camera"][:, None])[:, item["present"]]
        assert world.diff(dim=0).diff(dim=0).abs().max() < 1e-5
        inside = ((item["position"] > 0) & (item["position"] < 1)).all(dim=-1)[:, item["present"]]  # (T M)
        visible = item["visible"][:, item["present"]]
        assert inside.any(dim=0).all(), "every object is in view once"
        entered += int((~visible[0] & visible.any(dim=0)).sum())
        left += int((~visible[-1] & visible.any(dim=0)).sum())
        hidden += int((inside & ~visible).sum())
    assert entered > 10
    assert left > 10
    assert hidden > 0, "no object ever passes behind another"


def test_later_columns_pass_in_front() -> None:
    settings = {"num_objects": (2, 2), "shapes": ["square"], "backgrounds": [PlainBackground()]}
    met = 0
    for item in items(48, bouncing=1.0, pan=0.0, frames=12, **settings):
        near = (item["position"][:, 0] - item["position"][:, 1]).abs().amax(dim=-1) < 0.05
        for frame in near.nonzero().flatten().tolist():
            row, column = (item["position"][frame, 1].flip(0) * 64).long().tolist()
            assert item["segmentation"][frame, row, column] == 2
            met += 1
    assert met > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "at least one frame"),
        ({"num_objects": (4, 3)}, "least <= most"),
        ({"speed": (0.2, 0.1)}, "speed must be"),
        ({"bouncing": 1.5}, "bouncing in"),
        ({"scales": []}, "scales must be"),
        ({"backgrounds": []}, "needs a background"),
        ({"colors": ["mauve"]}, "colors must be among"),
        ({"brightness": 0.3}, "0 <= texture <= brightness"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingScenes(4, **settings)
