"""Colours that stand side by side remain distinct for colour-blind readers."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nmnist_helpers.pictures import palette

#: What an eye without one kind of cone makes of linear red, green and blue (Machado, Oliveira and Fernandes, 2009).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
}
#: Of linear red, green and blue to CIE XYZ, each divided by that of white.
TO_XYZ = np.array([[0.4340, 0.3762, 0.1899], [0.2127, 0.7152, 0.0722], [0.0178, 0.1095, 0.8728]])


def lab(color: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen; a difference of 2.3 can just be noticed."""
    part = np.array(to_rgb(color))
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(TO_XYZ @ np.clip(SIGHT[sight] @ linear, 0.01, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "together",
    [
        (palette.ON, palette.OFF, palette.TRUE, palette.SLATE, palette.INK, palette.PANEL),  # films of a network
        (palette.POSITIVE, palette.NEGATIVE, palette.PAPER),  # maps of weights
        (palette.TRUE, palette.INK, palette.LIGHT),  # bars of the classes
        tuple(style["color"] for style in palette.SERIES if style["ls"] == "-"),
    ],
)
def test_colours_of_one_picture_are_distinct(together, sight):
    for a, b in itertools.combinations(together, 2):
        assert np.linalg.norm(lab(a, sight) - lab(b, sight)) > 18, (a, b)


def test_green_and_orange_of_equal_lightness_are_found():
    """The check can fail: this pair is one colour to a deuteranope."""
    assert np.linalg.norm(lab("#8a8a00", "normal") - lab("#c87000", "normal")) > 18
    assert np.linalg.norm(lab("#8a8a00", "deuteranopia") - lab("#c87000", "deuteranopia")) < 18
