"""Test that the colours of each picture are distinct for colour-blind readers."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nmnist_helpers.pictures import palette

#: Matrices from linear RGB to the linear RGB that an eye perceives (Machado, Oliveira and Fernandes, 2009).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}
#: Matrix from linear RGB to CIE XYZ, relative to white.
TO_XYZ = np.array([[0.4340, 0.3762, 0.1899], [0.2127, 0.7152, 0.0722], [0.0178, 0.1095, 0.8728]])


def lab(color: str, sight: str) -> np.ndarray:
    """Return the CIE L*a*b* coordinates of a colour as it is perceived; a difference of 2.3 is just noticeable."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(TO_XYZ @ np.clip(SIGHT[sight] @ linear, 0.01, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "colors",
    [
        (palette.ON, palette.OFF, palette.TRUE, palette.SLATE, palette.INK, palette.PANEL),  # gifs of a network
        (palette.POSITIVE, palette.NEGATIVE, palette.PAPER),  # maps of weights
        (palette.TRUE, palette.INK, palette.LIGHT),  # bars of the classes
        tuple(style["color"] for style in palette.SERIES if style["ls"] == "-"),
    ],
)
def test_colours_of_one_picture_are_distinct(colors, sight):
    for a, b in itertools.combinations(colors, 2):
        assert np.linalg.norm(lab(a, sight) - lab(b, sight)) > 18, (a, b)


def test_green_and_orange_of_equal_lightness_are_not_distinct():
    """The check above can fail: a reader with deuteranopia cannot tell these two colours apart."""
    assert np.linalg.norm(lab("#8a8a00", "normal") - lab("#c87000", "normal")) > 18
    assert np.linalg.norm(lab("#8a8a00", "deuteranopia") - lab("#c87000", "deuteranopia")) < 18
