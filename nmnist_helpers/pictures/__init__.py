"""From events to pictures: gifs, animations, and the figures that several notebooks share."""

from .frames import CHANNEL_COLORS, OFF_COLOR, ON_COLOR
from .gif import gif_bytes, gif_table, save_gif

__all__ = ["CHANNEL_COLORS", "OFF_COLOR", "ON_COLOR", "gif_bytes", "gif_table", "save_gif"]
