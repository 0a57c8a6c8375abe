"""A canvas in a notebook on which the user draws a digit with the mouse or a finger.

It needs the package anywidget (``pip install anywidget``), but no internet connection: its JavaScript is below.
"""

from collections.abc import Callable

import numpy as np

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError("DigitCanvas: expected the package anywidget, found none; pip install anywidget") from error

#: Side of the canvas in pixels. In JupyterLab on a small screen, the films above a canvas of this size stay in sight.
CANVAS = 200

_ESM = """
function render({ model, el }) {
  const side = model.get("side");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "canvas for a digit");
  const clear = document.createElement("button");
  clear.textContent = "clear";
  const box = document.createElement("div");
  box.className = "digit-canvas";
  box.append(canvas, clear);
  el.append(box);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.lineCap = pen.lineJoin = "round";
  let last = null;

  function show() {
    const data = model.get("data"), image = pen.createImageData(side, side);
    for (let i = 0; i < side * side; i++) {
      const ink = data.byteLength ? data.getUint8(i) : 0;
      image.data.set([255 - ink, 255 - ink, 255 - ink, 255], 4 * i);
    }
    pen.putImageData(image, 0, 0);
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * side / box.width, (event.clientY - box.top) * side / box.height];
  }
  function line(event) {
    const next = place(event);
    pen.strokeStyle = "black";
    pen.lineWidth = side / 13;
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  }
  function send() {
    const rgba = pen.getImageData(0, 0, side, side).data, ink = new Uint8Array(side * side);
    for (let i = 0; i < ink.length; i++) ink[i] = 255 - rgba[4 * i];
    model.set("data", new DataView(ink.buffer));
    model.set("strokes", model.get("strokes") + 1);
    model.save_changes();
  }
  canvas.addEventListener("pointerdown", event => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(event);
  });
  canvas.addEventListener("pointermove", event => { if (last) line(event); });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => { if (last) { last = null; send(); } });
  clear.addEventListener("click", () => {
    model.set("data", new DataView(new ArrayBuffer(0)));
    model.set("strokes", 0);
    model.save_changes();
  });
  model.on("change:data", show);
  show();
  return () => model.off("change:data", show);
}
export default { render };
"""

_CSS = f"""
.digit-canvas {{ display: inline-flex; align-items: flex-start; gap: 6px; }}
.digit-canvas canvas {{
  width: {CANVAS}px; height: {CANVAS}px; border-radius: 4px; outline: 1px solid #9aa1ab; outline-offset: -1px;
  cursor: crosshair; touch-action: none;
}}
"""


class DigitCanvas(anywidget.AnyWidget):
    """A canvas to draw on, with dark ink on white, and a button that clears it.

    Parameters
    ----------
    on_stroke : callable, optional
        Called with the canvas at the end of every stroke.

    Attributes
    ----------
    data : bytes
        The ink row by row, a byte per pixel from 0 (paper) to 255; empty before the first stroke.
    strokes : int
        Number of strokes in the picture.

    Examples
    --------
    >>> canvas = DigitCanvas(on_stroke=lambda canvas: print(canvas.image().mean()))
    >>> canvas                                     # as the last line of a cell: draw
    >>> digit = to_mnist_look(canvas.image())      # in a later cell
    """

    _esm = _ESM
    _css = _CSS
    side = traitlets.Int(CANVAS, read_only=True).tag(sync=True)
    data = traitlets.CBytes(b"").tag(sync=True)  # the browser's bytes arrive as a memoryview
    strokes = traitlets.Int(0).tag(sync=True)

    def __init__(self, on_stroke: Callable[["DigitCanvas"], object] | None = None):
        super().__init__()
        self._on_stroke = on_stroke
        self.observe(self._stroke_ended, "strokes")

    @traitlets.validate("data")
    def _check_size(self, proposal) -> bytes:
        data = proposal["value"]
        if len(data) not in (0, CANVAS * CANVAS):
            raise traitlets.TraitError(f"data: expected {CANVAS * CANVAS} bytes or none, found {len(data)}")
        return data

    def _stroke_ended(self, change) -> None:
        if self._on_stroke is not None and change["new"] > 0:
            self._on_stroke(self)

    def image(self) -> np.ndarray:
        """Return the ink, uint8 [200, 200], from 0 (paper) to 255, as in MNIST's images."""
        if not self.data:
            return np.zeros((CANVAS, CANVAS), np.uint8)
        return np.frombuffer(self.data, np.uint8).reshape(CANVAS, CANVAS).copy()
