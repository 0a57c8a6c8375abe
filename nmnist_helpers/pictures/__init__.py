"""Pictures of events and results: gifs, animations, and the figures that several notebooks share."""

from . import palette
from .gif import gif_bytes, ink_png, save_gif
from .html import gif_table
from .live import draw_digit, explore, show

__all__ = [
    "draw_digit",
    "explore",
    "gif_bytes",
    "gif_table",
    "ink_png",
    "palette",
    "save_gif",
    "show",
]
