import numpy as np
import pytest

from ocl.data.backgrounds import GradientBackground, NoiseBackground, PlainBackground, TextureBackground

ALL = (PlainBackground(), GradientBackground(), TextureBackground(), NoiseBackground())


def drawn(background, count=400, size=48, seed=0):
    return background.pattern(np.random.default_rng(seed), count, size)


@pytest.mark.parametrize("background", ALL, ids=repr)
@pytest.mark.parametrize("size", [1, 7, 32, 64])
def test_patterns_keep_to_their_range(background, size):
    pattern = drawn(background, 50, size)
    assert pattern.shape == (50, 3, size, size)
    assert pattern.dtype == np.float32
    assert np.abs(pattern).max() <= 1 + 1e-6
    assert background.pattern(np.random.default_rng(0), 0, size).shape == (0, 3, size, size)


@pytest.mark.parametrize("background", ALL[1:], ids=repr)
def test_patterns_differ_and_average_to_nothing(background):
    pattern = drawn(background, 2000, 16)
    assert len(np.unique(pattern.reshape(2000, -1), axis=0)) == 2000
    assert np.abs(pattern.mean(axis=0)).max() < 5 * pattern.std() / np.sqrt(2000)
    assert pattern.std() > 0.3, "a pattern that spans little of its range is no rival to the objects"


def test_plain_is_flat():
    assert not drawn(PlainBackground()).any()


def test_gradients_are_planes_that_span_the_frame():
    pattern = drawn(GradientBackground()).astype(np.float64)
    assert np.abs(np.diff(pattern, n=2, axis=-1)).max() < 1e-5
    assert np.abs(np.diff(pattern, n=2, axis=-2)).max() < 1e-5
    # From corner to corner of the frame 2; the centres of the corner pixels lie half a pixel further in.
    np.testing.assert_allclose(pattern.max(axis=(2, 3)), 1 - 1 / 48, atol=1e-5)
    np.testing.assert_allclose(pattern.min(axis=(2, 3)), -1 + 1 / 48, atol=1e-5)
    slope = np.stack([np.diff(pattern, axis=axis).mean(axis=(2, 3)) for axis in (3, 2)], axis=-1)  # (n 3 2)
    unit = slope / np.linalg.norm(slope, axis=-1, keepdims=True)
    between = (unit[:, 0] * unit[:, 1]).sum(-1)  # channels are independent: the cosine of a uniform angle
    assert abs(between.mean()) < 4 * np.sqrt(0.5 / 400)
    assert (between**2).mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 8 / 400))


def test_textures_have_two_colors_and_their_number_of_cycles():
    pattern = drawn(TextureBackground(cycles=(3.0, 7.0)), 200, 64).astype(np.float64)
    flat = pattern.reshape(200, 3, -1)
    assert (np.linalg.svd(flat, compute_uv=False)[:, 1] < 1e-3).all()  # one line in colour space
    assert (np.abs(np.abs(flat).max(axis=(1, 2)) - 1) < 1e-3).all()
    strongest = np.take_along_axis(pattern, np.abs(flat).max(-1).argmax(1)[:, None, None, None], axis=1)[:, 0]
    window = np.hanning(64)[:, None] * np.hanning(64)
    spectrum = np.abs(np.fft.fft2(strongest * window))
    spectrum[:, 0, 0] = 0
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(64, 1 / 64)] * 2))
    peak = frequency.reshape(-1)[spectrum.reshape(200, -1).argmax(1)]
    # The product of two waves at right angles beats at the root of two of their frequency.
    assert peak.min() > 3 - 1
    assert peak.max() < 7 * np.sqrt(2) + 1
    down, across = np.gradient(strongest, axis=(1, 2))
    tensor = np.einsum("inyx,jnyx->nij", np.stack([across, down]), np.stack([across, down]))
    least, most = np.linalg.eigvalsh(tensor).T  # stripes change in one direction only, checks alike in two
    stripes = least / most < 0.2
    assert ((least / most < 0.05) | (least / most > 0.5)).all()
    assert stripes.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(200))


def test_grain_is_white_and_clouds_are_not():
    def neighbours(pattern):
        return (pattern[..., 1:] * pattern[..., :-1]).mean() / (pattern**2).mean()

    white, clouds = drawn(NoiseBackground(grain=1.0)), drawn(NoiseBackground(cells=(4,), grain=0.0))
    assert (white**2).mean() == pytest.approx(1 / 3, abs=2e-3)
    assert abs(neighbours(white)) < 1e-2
    assert neighbours(clouds) > 0.95
    both = drawn(NoiseBackground(cells=(4,), grain=0.4))
    assert (both**2).mean() == pytest.approx(0.6**2 * (clouds**2).mean() + 0.4**2 / 3, rel=0.03)
    channels = np.corrcoef(clouds.transpose(1, 0, 2, 3).reshape(3, -1))
    assert np.abs(channels - np.eye(3)).max() < 0.1


def test_clouds_interpolate_random_signs():
    middle = drawn(NoiseBackground(cells=(1,), grain=0.0), 4000, 9)[:, 0, 4, 4]  # the mean of four signs
    values, counts = np.unique(middle, return_counts=True)
    np.testing.assert_allclose(values, [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(counts / 4000, np.array([1, 4, 6, 4, 1]) / 16, atol=4 * 0.5 / np.sqrt(4000))


def test_clouds_are_the_same_in_every_size():
    large, small = (drawn(NoiseBackground(grain=0.0), 8, size) for size in (64, 32))
    # A pixel of the small image is the mean of four of the large one, but where a grid's corner lies inside it.
    assert np.abs(large.reshape(8, 3, 32, 2, 32, 2).mean(axis=(3, 5)) - small).mean() < 0.02


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TextureBackground(cycles=(0.0, 2.0)), "cycles must be 0 < fewest <= most"),
        (lambda: TextureBackground(cycles=(3.0, 2.0)), "cycles must be 0 < fewest <= most"),
        (lambda: NoiseBackground(cells=()), "cells must be numbers of at least 1"),
        (lambda: NoiseBackground(cells=(0,)), "cells must be numbers of at least 1"),
        (lambda: NoiseBackground(grain=1.1), r"grain must be in \[0, 1\], got 1.1"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
