"""Test that drawings are given the look of MNIST's digits."""

import os

import numpy as np
import pytest

from nmnist_helpers.camera import load_mnist, simulate, to_mnist_look


def drawing(height, width, rows, columns):
    image = np.zeros((height, width), np.uint8)
    image[rows, columns] = 255
    return image


@pytest.mark.parametrize("scale", [1, 3, 10])
def test_the_digit_is_twenty_pixels_high_and_its_centre_of_mass_is_in_the_middle(scale):
    image = np.zeros((40 * scale, 60 * scale), np.uint8)
    image[4 * scale : 34 * scale, 50 * scale : 53 * scale] = 255  # a vertical stroke at the right
    image[31 * scale : 34 * scale, 41 * scale : 53 * scale] = 255  # a short horizontal stroke at its foot
    found = to_mnist_look(image)
    assert (found.shape, found.dtype, found.max()) == ((28, 28), np.uint8, 255)
    rows, columns = (np.flatnonzero((found > 40).any(axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == 20
    assert columns[-1] - columns[0] + 1 == 8  # 12 pixels, scaled like the height from 30 to 20
    for axis in (0, 1):
        centre = found.sum(axis=1 - axis) @ np.arange(28) / found.sum()
        assert abs(centre - 14) <= 0.5


def test_position_size_and_brightness_of_the_drawing_do_not_matter():
    small = drawing(28, 28, slice(3, 17), slice(6, 11))
    large = drawing(280, 280, slice(130, 270), slice(200, 250))
    np.testing.assert_array_equal(to_mnist_look(small), to_mnist_look(large))
    np.testing.assert_array_equal(to_mnist_look(small), to_mnist_look(small // 3))


def test_dots_lines_and_full_images_are_accepted():
    for image in (drawing(9, 9, 4, 4), drawing(280, 280, 140, slice(None)), np.full((50, 50), 255, np.uint8)):
        assert to_mnist_look(image).max() == 255
    assert len(simulate(to_mnist_look(drawing(9, 9, 4, 4))[None]).validate()) == 1


@pytest.mark.skipif(not os.environ.get("NMNIST_TEST_MNIST"), reason="NMNIST_MNIST names no folder with MNIST's files")
def test_mnists_own_digits_hardly_change():
    images = load_mnist(os.environ["NMNIST_TEST_MNIST"], train=False)[0][:200]
    difference = [np.abs(to_mnist_look(image).astype(int) - image).mean() for image in images]
    assert np.mean(np.equal(difference, 0)) > 0.8
    assert max(difference) < 1  # only digits that were slightly smaller or less bright change


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((28, 28)), r"drawing: expected uint8 \[H, W\], found float64 \[28, 28\]"),
        (np.ones((28, 28, 4), np.uint8), r"drawing: expected uint8 \[H, W\], found uint8 \[28, 28, 4\]"),
        (np.zeros((28, 28), np.uint8), r"drawing: expected some ink, found \[28, 28\] pixels that are all 0"),
        (np.zeros((0, 28), np.uint8), "drawing: expected some ink"),
    ],
)
def test_invalid_drawings_raise(image, message):
    with pytest.raises(ValueError, match=message):
        to_mnist_look(image)


def test_faint_ink_is_not_rounded_away():
    drawing = np.zeros((280, 280), np.uint8)
    drawing[0, 0] = drawing[279, 279] = 1
    image = to_mnist_look(drawing)
    assert image.max() == 255
    assert np.count_nonzero(image) < 40


def test_brightness_is_rounded():
    image = np.full((20, 20), 200, np.uint8)
    image[0, 0] = 50
    assert to_mnist_look(image)[4, 4] == 64  # 63.75


def test_no_ink_appears_inside_a_ring():
    ring = np.full((80, 80), 255, np.uint8)
    ring[20:60, 20:60] = 0
    assert not to_mnist_look(ring)[10:18, 10:18].any()
