"""Pictures as HTML for notebooks: one with an alternative text, or a table of gifs."""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .gif import gif_bytes

if TYPE_CHECKING:
    from IPython.display import HTML


def gif_table(
    rows: Sequence,
    header: Sequence[str] | None = None,
    captions: Sequence | None = None,
    alts: Sequence | None = None,
) -> "HTML":
    """Make a table of gifs (or other pictures) for a notebook, in which the pictures are embedded.

    Parameters
    ----------
    rows : sequence of sequences of path, bytes or Event
        Pictures row by row; a flat sequence is one row. Events are drawn by `gif_bytes`.
    header : sequence of str, optional
        Column titles.
    captions : like `rows`, of str, optional
        Text below each picture.
    alts : like `rows`, of str, optional
        Alternative texts for readers who cannot see the pictures; by default, the captions.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If captions, alternative texts or header do not match the rows, or if a file is not a gif, png or jpeg.
    TypeError
        If `rows` is a single picture and not a sequence.

    Examples
    --------
    >>> gif_table([[a, b], [c, d]], header=['input', 'output'])
    """
    from IPython.display import HTML

    nested = _rows(rows)
    shape = [len(row) for row in nested]
    below = [[""] * columns for columns in shape] if captions is None else _rows(captions)
    alt_rows = below if alts is None else _rows(alts)
    for name, given in (("captions", below), ("alternative texts", alt_rows)):
        if (found := [len(row) for row in given]) != shape:
            raise ValueError(f"gif_table: expected {name} in rows of {shape}, found {found}")
    if header is not None and len(header) != max(shape, default=0):
        raise ValueError(f"gif_table: expected {max(shape, default=0)} column heads, found {len(header)}")
    style = "text-align: center; vertical-align: top; padding: 4px 8px; background: white; color: #1f2733"
    lines = [] if header is None else [[f'<th style="{style}">{html.escape(str(head))}</th>' for head in header]]
    for pictures, texts, alternatives in zip(nested, below, alt_rows, strict=True):
        texts = [html.escape(str(text)) for text in texts]
        lines.append([
            f'<td style="{style}">{_image(picture, str(alt))}{text and f"<br>{text}"}</td>'
            for picture, text, alt in zip(pictures, texts, alternatives, strict=True)
        ])  # fmt: skip
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return HTML(f'<table style="border-collapse: collapse; border: none">\n{body}\n</table>')


def _rows(rows: Iterable) -> list[list]:
    """Return the rows of a table; a flat sequence is one row."""
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise TypeError(f"gif_table: expected a list, found a single {type(rows).__name__}; put it into a list")
    rows = list(rows)
    nested = all(isinstance(row, list | tuple) for row in rows)
    return [list(row) for row in (rows if nested else [rows])]


def image_tag(data: bytes, alt: str) -> str:
    """Return a picture as an HTML ``<img>`` with embedded data and an alternative text for screen readers.

    JupyterLab and nbconvert drop the alternative text in the metadata of an ``image/png`` output. They keep that of an
    ``<img>``, which takes no more space.

    Raises
    ------
    ValueError
        If the data are not a gif, png or jpeg.
    """
    for start, kind in ((b"GIF8", "gif"), (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg")):
        if data.startswith(start):
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            return f'<img src="{source}" alt="{html.escape(alt)}">'
    raise ValueError(f"picture: expected gif, png or jpeg, found {data[:4]!r} at its start")


def _image(picture, alt: str) -> str:
    if not isinstance(picture, bytes | str | os.PathLike):  # an `Event`
        picture = gif_bytes(picture)
    alt = alt or "recording"
    if isinstance(picture, bytes):
        return image_tag(picture, alt)
    try:
        return image_tag(Path(picture).read_bytes(), alt)
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
