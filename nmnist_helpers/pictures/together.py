"""One gif of a whole network: its input, the spikes of its hidden layers and its output, side by side and in step."""

from collections.abc import Sequence

import numpy as np

from ..io import Event
from .frames import AGES, GREYS, PALETTE, Recording, camera_frames, draw_text, film_span
from .gif import check_pace, loop
from .raster import raster_frames

GAP, HEAD, FOOT = 14, 22, 24  # space between, above and below the panels, in pixels
COLUMNS, SQUARE = 16, 7  # of the grid that shows a hidden layer; the side of a square in pixels


def network_gif(
    layers: Sequence[Recording],
    label: int | None = None,
    *,
    frame_ms: float = 10.0,
    slowdown: float = 10.0,
    hold: float = 1000.0,
) -> bytes:
    """Draw a recording and the spikes of every layer as one gif with a legend, which loops forever.

    Parameters
    ----------
    layers : sequence of Event
        The recording (2-D), the spikes of each hidden layer and those of the output layer (1-D), in the order of the
        network.
    label : int, optional
        The true class, whose spikes are drawn in a colour of their own.
    frame_ms : float
        ms of the recording in one frame.
    slowdown : float
        ms of film per ms of the recording.
    hold : float
        Additional ms for which the last frame is shown.

    Returns
    -------
    bytes
        The file's contents.

    Raises
    ------
    ValueError
        If `layers` is not a 2-D recording followed by at least one 1-D layer, or a time is not valid for a film.

    Examples
    --------
    >>> data = network_gif([recording, hidden_1, hidden_2, output], label=7)
    """
    dims = [layer.dim for layer in layers]
    if len(dims) < 2 or dims != [2] + [1] * (len(dims) - 1):
        raise ValueError(f"network_gif: expected a 2-D recording and then 1-D layers, found {dims}")
    recording, *hidden, output = (layer.rounded() for layer in layers)
    span = film_span(recording, None)
    check_pace(span, frame_ms, slowdown, hold)
    camera = camera_frames(recording, span, frame_ms)
    panels = [camera, *(grid_frames(layer, span, frame_ms) for layer in hidden)]
    panels.append(raster_frames(output, span, frame_ms, label=label, width=320))
    heads = [
        "the camera's events",
        *(f"block {n}" for n in range(1, len(hidden) + 1)),
        f"block {len(hidden) + 1}, the output",
    ]

    height = HEAD + max(panel.shape[1] for panel in panels) + FOOT
    width = sum(panel.shape[2] for panel in panels) + GAP * (len(panels) + 1)
    film = np.full((len(camera), height, width), PALETTE["paper"], np.uint8)
    left = GAP
    for panel, head in zip(panels, heads, strict=True):
        film[:, HEAD : HEAD + panel.shape[1], left : left + panel.shape[2]] = panel
        _write_all(film, head, left, HEAD // 2)
        left += panel.shape[2] + GAP
    _draw_legend(film, height - FOOT // 2, label is not None)
    return loop(film, frame_ms * slowdown, hold)


def grid_frames(event: Recording, span: float, frame_ms: float) -> np.ndarray:
    """Draw a layer as a grid of one square per neuron, which turns dark at a spike and fades over three frames.

    Parameters
    ----------
    event : Event
        1-D, with an extent that gives the number of neurons.
    span, frame_ms : float
        As in `camera_frames`.

    Returns
    -------
    uint8 array [F, H, W]
        Frames of palette numbers; see `PALETTE`.
    """
    if event.extent is None:
        raise ValueError("grid_frames: expected an extent with the number of neurons, found none")
    channels, _, per_channel, _ = event.extent
    rows = -(-channels * per_channel // COLUMNS)
    y, x = np.divmod(event.c * per_channel + event.x, COLUMNS)
    placed = Event(x, y, np.zeros(len(event), int), event.t)  # the layer as a camera with a pixel per neuron
    placed.extent = (1, rows, COLUMNS, span)
    film = camera_frames(placed, span, frame_ms, SQUARE)[:, : rows * SQUARE]
    dark = np.arange(256, dtype=np.uint8)  # replaces the colours of channel 0 by those of text
    dark[PALETTE.event : PALETTE.event + len(AGES)] = PALETTE.text + np.array([GREYS - 1, GREYS // 2, 1])
    return dark[film]


def _write_all(film: np.ndarray, text: str, x: int, y: int) -> int:
    """Write the same text on every frame; return the column after its end."""
    before = film[0].copy()
    draw_text(film[0], text, x, y, 12)
    changed = film[0] != before
    film[1:, changed] = film[0][changed]
    return int(np.flatnonzero(changed.any(0)).max()) + 1


def _draw_legend(film: np.ndarray, y: int, true_class: bool) -> None:
    """Draw a square in each colour that occurs, with the meaning of the colour."""
    entries = [
        (PALETTE.event + len(AGES), "ON event (brighter)"),
        (PALETTE.event, "OFF event (darker)"),
        (PALETTE.text + GREYS - 1, "spike"),
    ]
    if true_class:
        entries.append((PALETTE["true"], "spike of the true class"))
    x = GAP
    for color, text in entries:
        film[:, y - 5 : y + 5, x : x + 10] = color
        x = _write_all(film, text, x + 16, y) + 20
