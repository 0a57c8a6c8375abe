"""The canvas for digits: from what the browser sends to an array, and without anywidget."""

import importlib
import sys

import numpy as np
import pytest

from nmnist_helpers.camera import to_mnist_look

traitlets = pytest.importorskip("traitlets")
pytest.importorskip("anywidget")

from nmnist_helpers.pictures.canvas import SIDE, DigitCanvas  # noqa: E402


def stroke(canvas, rows, columns):
    """What a browser sends after a stroke: all of the picture, then the number of strokes."""
    image = canvas.image()
    image[rows, columns] = 255
    canvas.set_state({"data": memoryview(image.tobytes()), "strokes": canvas.strokes + 1})


def test_strokes_arrive_as_an_image():
    canvas = DigitCanvas()
    assert canvas.image().shape == (SIDE, SIDE)
    assert not canvas.image().any()
    stroke(canvas, slice(40, 240), slice(100, 120))
    stroke(canvas, slice(40, 60), slice(30, 120))
    image = canvas.image()
    assert (image.dtype, canvas.strokes) == (np.uint8, 2)
    assert (image[40:240, 100:120] == 255).all()
    assert image.sum() == 255 * (200 * 20 + 20 * 70)
    image[:] = 0  # a copy
    assert canvas.image().any()
    assert to_mnist_look(canvas.image()).shape == (28, 28)


def test_callback_sees_every_stroke_whole():
    seen = []
    canvas = DigitCanvas(on_stroke=lambda drawn: seen.append(int(drawn.image().sum()) // 255))
    stroke(canvas, slice(0, 10), slice(0, 10))
    stroke(canvas, slice(20, 30), slice(0, 10))
    canvas.set_state({"data": memoryview(b""), "strokes": 0})  # what the browser sends after "clear"
    assert seen == [100, 200]
    assert (canvas.data, canvas.strokes) == (b"", 0)
    stroke(canvas, slice(0, 1), slice(0, 10))
    assert seen == [100, 200, 10]


def test_what_is_no_picture():
    canvas = DigitCanvas()
    with pytest.raises(traitlets.TraitError, match="data: expected 78400 bytes or none, found 3"):
        canvas.data = b"abc"
    assert canvas.data == b""


def test_without_anywidget(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "nmnist_helpers.pictures.canvas")
    with pytest.raises(ImportError, match="expected the package anywidget, found none; pip install anywidget"):
        importlib.import_module("nmnist_helpers.pictures.canvas")
    importlib.import_module("nmnist_helpers.pictures")  # everything else works


def test_the_script_loads_nothing_from_the_net():
    assert "http" not in DigitCanvas._esm + DigitCanvas._css
