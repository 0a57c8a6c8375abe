"""Convert a drawing to a digit in MNIST's format, for the simulated camera."""

import numpy as np
from PIL import Image

from .digits import IMAGE_SIDE

#: Side of the square box into which MNIST's digits are scaled, in pixels.
INK_BOX = 20


def to_mnist_look(drawing: np.ndarray) -> np.ndarray:
    """Scale and centre a drawing like the digits of MNIST (LeCun et al., Proc. IEEE 86:2278, 1998).

    The bounding box of the ink is scaled to fit into 20x20 pixels, with its aspect ratio unchanged. It is placed in
    28x28 pixels so that the ink's centre of mass is at pixel (14, 14), counted from 0.

    Parameters
    ----------
    drawing : uint8 array [H, W]
        Bright ink on black, in an image of any size.

    Returns
    -------
    uint8 array [28, 28]
        The brightest ink is 255.

    Raises
    ------
    ValueError
        If the array has another type or number of axes, or contains no ink.
    """
    drawing = np.asarray(drawing)
    if drawing.ndim != 2 or drawing.dtype != np.uint8:
        raise ValueError(f"drawing: expected uint8 [H, W], found {drawing.dtype} {list(drawing.shape)}")
    if not drawing.any():
        raise ValueError(f"drawing: expected some ink, found {list(drawing.shape)} pixels that are all 0")
    rows, columns = (np.flatnonzero(drawing.any(axis)) for axis in (1, 0))
    ink = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * INK_BOX / max(ink.shape))) for side in ink.shape)
    bright = Image.fromarray(ink.astype(np.float32))  # in whole numbers, faint ink would be rounded to none
    ink = np.asarray(bright.resize((width, height), Image.Resampling.BICUBIC), np.float64).clip(0)
    ink *= 255 / ink.max()
    image = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    places = []
    for axis, side in enumerate(ink.shape):
        centre = ink.sum(axis=1 - axis) @ np.arange(side) / ink.sum()
        start = int(np.clip(round(IMAGE_SIDE / 2 - centre), 0, IMAGE_SIDE - side))
        places.append(slice(start, start + side))
    image[tuple(places)] = np.rint(ink)
    return image
