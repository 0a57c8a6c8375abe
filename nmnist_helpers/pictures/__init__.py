"""From events to pictures: gifs, animations, and the figures that several notebooks share."""

from .frames import CHANNEL_COLORS, OFF_COLOR, ON_COLOR
from .gif import gif_bytes, gif_table, ink_png, save_gif
from .live import draw_digit, explore, show

__all__ = [
    "CHANNEL_COLORS",
    "OFF_COLOR",
    "ON_COLOR",
    "draw_digit",
    "explore",
    "gif_bytes",
    "gif_table",
    "ink_png",
    "save_gif",
    "show",
]
