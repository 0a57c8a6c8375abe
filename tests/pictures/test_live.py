"""Test pictures with alternative texts, and the sliders and the canvas that update them."""

import base64
import html
import io
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from nmnist_helpers.pictures import draw_digit, explore, ink_png, show
from nmnist_helpers.pictures.live import picture

display = pytest.importorskip("IPython.display")


@pytest.fixture
def shown(monkeypatch):
    """Return the list of a notebook's outputs; an update of an earlier output is added as ('update', picture)."""
    outputs = []

    class Handle:
        def update(self, output):
            outputs.append(("update", output))

    def record(output, display_id=False):
        outputs.append(output)
        return Handle() if display_id else None

    monkeypatch.setattr(display, "display", record)
    return outputs


def test_a_figure_is_shown_once_with_its_alternative_text(shown):
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    show(fig, "a line that rises from 0 to 1 & stays < 2")
    assert not plt.fignum_exists(fig.number)
    (output,) = shown
    bundle = output._repr_mimebundle_()
    assert bundle["text/plain"] == "a line that rises from 0 to 1 & stays < 2"
    source, alt = re.fullmatch(r'<img src="([^"]*)" alt="([^"]*)">', bundle["text/html"]).groups()
    assert html.unescape(alt) == bundle["text/plain"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="expected an alternative text, found none"):
        show(plt.figure(), " ")
    plt.close("all")


def test_a_palette_makes_the_picture_smaller_without_a_visible_difference():
    fig, (left, right) = plt.subplots(1, 2)
    left.imshow(np.random.default_rng(0).random((30, 30)), "PuOr")
    right.plot([0, 1], label="a line")
    right.legend()
    file = io.BytesIO()
    fig.savefig(file, format="png", bbox_inches="tight")
    small = picture(fig, "noise and a line").data
    assert len(small) < 0.6 * len(file.getvalue())
    found, expected = (np.asarray(Image.open(data).convert("RGB"), float) for data in (io.BytesIO(small), file))
    assert found.shape == expected.shape
    assert np.sqrt(((found - expected) ** 2).mean()) < 2.5  # of 255


def test_sliders_change_the_picture(shown):
    pytest.importorskip("ipywidgets")
    drawn = []

    def draw(width, height):
        drawn.append((width, height))
        return plt.figure(figsize=(width, height))

    explore(draw, "an empty page", width=(2.0, 1.0, 3.0), height=(1.0, 1.0, 2.0))
    first, box = shown
    assert drawn == [(2.0, 1.0)]
    box.children[0].value = 3.0
    assert drawn == [(2.0, 1.0), (3.0, 1.0)]
    assert shown[2][0] == "update"
    assert shown[2][1].data != first.data
    assert not plt.get_fignums()


def test_without_widgets_only_the_picture_is_shown(shown, monkeypatch):
    for package in ("ipywidgets", "anywidget"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "nmnist_helpers.pictures.canvas", raising=False)
    explore(lambda width: plt.figure(figsize=(width, 1)), "an empty page", width=(2.0, 1.0, 3.0))
    draw_digit(lambda drawing: int(drawing.sum()), np.ones((2, 2), np.uint8))
    assert len(shown) == 2
    assert shown[1] == 4


@pytest.mark.parametrize("limits", [(0.5, 1.0, 3.0), (4.0, 1.0, 3.0), (1.0, 1.0, 1.0)])
def test_invalid_limits_of_a_slider_raise_an_error(limits, shown):
    with pytest.raises(ValueError, match="width: expected lowest <= first <= highest"):
        explore(lambda width: plt.figure(), "a page", width=limits)
    assert shown == []


@pytest.mark.parametrize("limits", [(0.25, 0.02, 1.0), (0.03, 0.002, 0.1), (3, 0.5, 10), (1, 1, 2), (1.001, 1, 2)])
def test_a_slider_keeps_its_first_value_and_redraws_when_it_is_let_go(limits, shown):
    pytest.importorskip("ipywidgets")
    explore(lambda width: plt.figure(figsize=(1, 1)), "an empty page", width=limits)
    (slider,) = shown[1].children
    first, lowest, _ = limits
    steps = round((first - lowest) / slider.step)
    assert slider.value == first
    assert lowest + steps * slider.step == pytest.approx(first, rel=1e-9)  # where a browser puts its handle
    assert not slider.continuous_update


def test_a_stroke_updates_the_output(shown):
    pytest.importorskip("anywidget")
    draw_digit(lambda drawing: int((drawing > 0).sum()), np.ones((2, 2), np.uint8))
    assert shown[0] == 4
    canvas = shown[1]
    image = canvas.image()
    image[:10, :10] = 255
    canvas.set_state({"data": memoryview(image.tobytes()), "strokes": 1})
    assert shown[2] == ("update", 100)


def test_ink_is_black_on_white_paper():
    drawing = np.zeros((28, 28), np.uint8)
    drawing[:, :14] = 255
    picture = np.asarray(Image.open(io.BytesIO(ink_png(drawing))))
    assert picture.shape == (238, 238)
    assert picture[100, 10] == 0
    assert picture[100, 230] == 255
