"""Shifts of appearance: other pixels, the same episodes and the same masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ocl.data.backgrounds import NoiseBackground
from ocl.data.sprites import SpriteRenderer
from rl_probes.envs.appearance import Appearance, Distracted, Lit, Textured
from rl_probes.envs.push import Push
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison

ALL = frozenset({"images", "segmentation", "objects"})
SHIFTS = [Textured(), Textured(0.8, NoiseBackground()), Lit(), Distracted()]


def frames(*appearances: Appearance, steps: int = 3, task=None, num_envs: int = 16):
    world = SpriteWorld(task or ObjectComparison(), num_envs, seed=4, appearances=appearances)
    seen = [world.observe(ALL)]
    for action in np.random.default_rng(0).integers(4, size=(steps, num_envs)):
        world.step(action)
        seen.append(world.observe(ALL))
    return seen


@pytest.mark.parametrize("task", [ObjectComparison(), Push()])
@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.describe())
def test_a_shift_changes_pixels_and_nothing_else(shift, task):
    for plain, shifted in zip(frames(task=task), frames(shift, task=task), strict=True):
        assert torch.equal(plain.segmentation, shifted.segmentation)
        assert all(torch.equal(plain.objects[name], shifted.objects[name]) for name in plain.objects)
        assert (plain.images != shifted.images).flatten(1).any(dim=1).all()
        assert shifted.images.dtype == torch.uint8


@pytest.mark.parametrize("shift", [Textured(0), Lit(0), Distracted(0), Distracted(count=0)])
def test_without_strength_nothing_changes(shift):
    for plain, shifted in zip(frames(), frames(shift), strict=True):
        assert torch.equal(plain.images, shifted.images)


@pytest.mark.parametrize("shift", SHIFTS)
def test_what_lies_behind_stands_still_in_an_episode_and_differs_between_episodes(shift):
    seen = frames(shift, steps=4)
    nothing = torch.stack([batch.segmentation == 0 for batch in seen]).all(dim=0)  # never near a sprite
    clear = torch.nn.functional.max_pool2d((~nothing).float()[:, None], 9, stride=1, padding=4)[:, 0] == 0
    assert clear.float().mean() > 0.2
    for batch in seen[1:]:
        assert torch.equal(batch.images.masked_fill(~clear[:, None], 0), seen[0].images.masked_fill(~clear[:, None], 0))
    images = seen[0].images.float()
    assert (images[1:] - images[:-1]).abs().flatten(1).mean(dim=1).min() > 1


def test_objects_keep_their_colours_before_a_texture():
    for plain, shifted in zip(frames(), frames(Textured(1.0)), strict=True):
        inside = torch.nn.functional.max_pool2d((plain.segmentation == 0).float()[:, None], 9, stride=1, padding=4) == 0
        inside = inside.expand_as(plain.images)  # the filter of the stamps reaches over three pixels
        assert inside.sum() > 100
        assert (plain.images[inside].int() - shifted.images[inside].int()).abs().max() <= 2


def test_light_falls_in_a_ramp_to_one_minus_its_strength():
    plain, lit = frames(steps=0)[0].images.float(), frames(Lit(0.6), steps=0)[0].images.float()
    bright = plain > 200
    share = torch.where(bright, lit / plain.clamp_min(1), torch.nan)
    assert share.nan_to_num(1).amax() <= 1
    assert share.nan_to_num(1).amin() >= 0.4 - 0.01
    ramp = Lit(0.6).light(np.random.default_rng(0), 64)
    assert 0.4 <= ramp.min() < 0.42
    assert 0.98 < ramp.max() <= 1
    assert np.diff(np.diff(ramp, axis=0), axis=0) == pytest.approx(0, abs=1e-6)
    assert np.diff(np.diff(ramp, axis=1), axis=1) == pytest.approx(0, abs=1e-6)


def test_distractors_are_smaller_than_objects_and_in_no_mask():
    plain, shifted = frames(steps=0)[0], frames(Distracted(count=5), steps=0)[0]
    new = (plain.images != shifted.images).any(dim=1)
    area = new.flatten(1).sum(dim=1)
    assert area.float().mean() < 5 * 90  # 0.05 * 64 px = 3.2 px and the filter's rim; an object has 92 px inside
    assert area.min() > 0
    assert shifted.images.amax(dim=1)[new & (plain.segmentation == 0)].float().mean() > 60  # and not faint


def test_shifts_add_up_and_do_not_disturb_each_other():
    both = frames(Textured(0.5), Lit(0.5), steps=0)[0].images.float()
    texture, light = frames(Textured(0.5), steps=0)[0].images.float(), frames(Lit(0.5), steps=0)[0].images.float()
    plain = frames(steps=0)[0].images.float()
    bright = plain > 100
    expected = texture * light / plain.clamp_min(1)
    assert (both - expected).abs()[bright].max() < 3


def test_two_shifts_of_a_kind_are_two():
    one, two = (frames(*[Distracted(count=3)] * count, steps=0)[0] for count in (1, 2))
    assert (one.images != two.images).flatten(1).any(dim=1).all()


def test_the_look_belongs_to_the_episode_and_its_state():
    shifts = [Textured(), Lit(), Distracted()]
    alone, among = SpriteWorld(Push(), 1, appearances=shifts), SpriteWorld(Push(), 5, seed=2, appearances=shifts)
    alone.reset(seeds=np.array([-77]))
    among.reset(np.array([3, 1]), np.array([-77, 5]))
    assert torch.equal(alone.observe(ALL).images, among.observe(ALL, np.array([3])).images)
    state = json.loads(json.dumps(among.state(), default=lambda value: value.tolist()))
    other = SpriteWorld(Push(), 5, seed=9, appearances=shifts)
    other.observe(ALL)
    other.set_state(state)
    assert torch.equal(other.observe(ALL).images, among.observe(ALL).images)
    assert "scenery" not in SpriteWorld(Push()).state()
    assert "appearances" not in SpriteWorld(Push()).provenance()
    assert among.provenance()["appearances"][1] == "Lit(strength=0.7)"
    with pytest.raises(ValueError, match="lacks"):
        other.set_state(SpriteWorld(Push(), 5).state())


def test_bad_arguments_are_refused():
    for shift in (Textured, Lit, Distracted):
        with pytest.raises(ValueError, match=r"strength must be in \[0, 1\], got 1.5"):
            shift(1.5)
    with pytest.raises(ValueError, match="count"):
        Distracted(count=-1)
    one = np.ones((1, 1))
    sprite = (np.zeros((1, 1, 2)), 0 * one, 0 * one, one, one > 0)
    with pytest.raises(ValueError, match=r"background must be \(1, 3, 64, 64\)"):
        SpriteRenderer(64).render(*sprite, np.zeros((3, 64, 64), dtype=np.float32))
