"""Pictures of events and results: gifs, animations, and the figures that several notebooks share."""

from . import palette
from .gif import gif_bytes, ink_png, save_gif
from .html import gif_table
from .live import draw_digit, explore, show
from .together import network_gif

__all__ = [
    "draw_digit",
    "explore",
    "gif_bytes",
    "gif_table",
    "ink_png",
    "network_gif",
    "palette",
    "save_gif",
    "show",
]
