"""Pictures for notebooks, and the widgets that change them while a notebook runs: sliders and a canvas.

A picture and its widgets are separate outputs. A committed notebook keeps the picture only, because
`tests/support/notebooks.py` removes the widgets. In a running notebook, the widgets update the picture in place.
"""

import io
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .html import image_tag

#: Number of steps of a slider from its lowest to its highest value.
STEPS = 100


class Picture:
    """A picture in a notebook with an alternative text, which is shown instead where HTML is not supported.

    Parameters
    ----------
    data : bytes
        Contents of a png file.
    alt : str
        What the picture shows, for readers who cannot see it.

    Raises
    ------
    ValueError
        If the alternative text is empty.
    """

    def __init__(self, data: bytes, alt: str):
        if not alt.strip():
            raise ValueError("picture: expected an alternative text, found none")
        self.data, self.alt = data, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": image_tag(self.data, self.alt), "text/plain": self.alt}


def picture(fig: Figure, alt: str) -> Picture:
    """Convert a figure to a picture with an alternative text, and close the figure.

    A palette of 256 colours more than halves the picture's size, without a visible difference.

    Parameters
    ----------
    fig : matplotlib Figure
    alt : str
        As in `Picture`.

    Returns
    -------
    Picture
    """
    drawn, file = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(fig)
    colours = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours.save(file, "png", optimize=True)
    return Picture(file.getvalue(), alt)


def show(fig: Figure, alt: str) -> None:
    """Show a figure in a notebook, once, with an alternative text; see `picture`.

    Examples
    --------
    >>> fig, ax = plt.subplots()
    >>> show(fig, "Event rate over time: three bursts, one for each saccade.")
    """
    from IPython.display import display

    display(picture(fig, alt))


def _step(first: float, lowest: float, highest: float) -> float:
    """Return the step of a slider, such that the first value lies on one; a browser would move it there."""
    step = (highest - lowest) / STEPS
    return (first - lowest) / max(1, round((first - lowest) / step)) if first > lowest else step


def explore(draw: Callable[..., Figure], alt: str, **sliders: tuple[float, float, float]) -> None:
    """Show a figure with a slider for each of its parameters.

    Parameters
    ----------
    draw : callable
        Takes a keyword argument for each slider and returns a figure.
    alt : str
        Alternative text; see `picture`.
    **sliders : (float, float, float)
        First value, lowest value, highest value (missed by less than a step of about a hundredth of the range). The
        figure is drawn again when a slider is let go. Without the package ipywidgets, it has no sliders.

    Raises
    ------
    ValueError
        If a first value is not within its limits, or if the limits are equal.

    Examples
    --------
    >>> explore(lambda threshold: trace(threshold), "Voltage of a neuron.", threshold=(1.25, 0.5, 3.0))
    """
    from IPython.display import display

    for name, (first, lowest, highest) in sliders.items():
        if not lowest <= first <= highest or lowest == highest:
            raise ValueError(
                f"{name}: expected lowest <= first <= highest and lowest < highest, found {(first, lowest, highest)}"
            )
    shown = display(picture(draw(**{name: first for name, (first, *_) in sliders.items()}), alt), display_id=True)
    try:
        import ipywidgets
    except ImportError:
        return
    controls = {
        name: ipywidgets.FloatSlider(
            first, min=lowest, max=highest, step=_step(first, lowest, highest), description=name, readout_format=".3g",
            continuous_update=False,  # a drag would queue one redraw for each value on the way
            style={"description_width": "8em"}, layout={"width": "32em"},
        )
        for name, (first, lowest, highest) in sliders.items()
    }  # fmt: skip

    def redraw(_) -> None:
        shown.update(picture(draw(**{name: slider.value for name, slider in controls.items()}), alt))

    for slider in controls.values():
        slider.observe(redraw, "value")
    display(ipywidgets.VBox(list(controls.values())))


def draw_digit(answer: Callable[[np.ndarray], Any], drawing: np.ndarray) -> None:
    """Show the result of `answer` for a drawing, and a canvas on which the reader can draw another digit.

    Parameters
    ----------
    answer : callable
        Takes a drawing and returns what a notebook can display. It is called again after every stroke.
    drawing : uint8 array [H, W]
        The first drawing, with bright ink on black. Without the package anywidget, there is no canvas.
    """
    from IPython.display import display

    shown = display(answer(drawing), display_id=True)
    try:
        from .canvas import DigitCanvas
    except ImportError:
        return
    display(DigitCanvas(on_stroke=lambda canvas: shown.update(answer(canvas.image()))))
