"""Test the canvas for drawing digits: how the browser's data become an image, and the error without anywidget."""

import importlib
import sys

import numpy as np
import pytest

from nmnist_helpers.camera import to_mnist_look

traitlets = pytest.importorskip("traitlets")
pytest.importorskip("anywidget")

from nmnist_helpers.pictures.canvas import CANVAS, DigitCanvas  # noqa: E402


def send_stroke(canvas, rows, columns):
    """Draw a rectangle and send what a browser sends after a stroke: the whole image and the number of strokes."""
    image = canvas.image()
    image[rows, columns] = 255
    canvas.set_state({"data": memoryview(image.tobytes()), "strokes": canvas.strokes + 1})


def test_strokes_arrive_as_an_image():
    canvas = DigitCanvas()
    assert canvas.image().shape == (CANVAS, CANVAS)
    assert not canvas.image().any()
    send_stroke(canvas, slice(40, 190), slice(100, 120))
    send_stroke(canvas, slice(40, 60), slice(30, 120))
    image = canvas.image()
    assert (image.dtype, canvas.strokes) == (np.uint8, 2)
    assert (image[40:190, 100:120] == 255).all()
    assert image.sum() == 255 * (150 * 20 + 20 * 70)
    image[:] = 0  # a copy
    assert canvas.image().any()
    assert to_mnist_look(canvas.image()).shape == (28, 28)


def test_the_callback_receives_the_complete_image_after_every_stroke():
    counts = []
    canvas = DigitCanvas(on_stroke=lambda drawn: counts.append(int(drawn.image().sum()) // 255))
    send_stroke(canvas, slice(0, 10), slice(0, 10))
    send_stroke(canvas, slice(20, 30), slice(0, 10))
    canvas.set_state({"data": memoryview(b""), "strokes": 0})  # as a browser sends it after "clear"
    assert counts == [100, 200]
    assert (canvas.data, canvas.strokes) == (b"", 0)
    send_stroke(canvas, slice(0, 1), slice(0, 10))
    assert counts == [100, 200, 10]


def test_data_of_a_wrong_size_raises_an_error():
    canvas = DigitCanvas()
    with pytest.raises(traitlets.TraitError, match="data: expected 40000 bytes or none, found 3"):
        canvas.data = b"abc"
    assert canvas.data == b""


def test_without_anywidget_only_the_canvas_raises_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "nmnist_helpers.pictures.canvas")
    with pytest.raises(ImportError, match="expected the package anywidget, found none; pip install anywidget"):
        importlib.import_module("nmnist_helpers.pictures.canvas")
    importlib.import_module("nmnist_helpers.pictures")


def test_the_canvas_is_drawn_at_its_own_size():
    assert f"  width: {CANVAS}px; height: {CANVAS}px;" in str(DigitCanvas._css)
    assert DigitCanvas().side == CANVAS


def test_the_script_loads_nothing_from_the_internet():
    assert "http" not in DigitCanvas._esm + DigitCanvas._css
