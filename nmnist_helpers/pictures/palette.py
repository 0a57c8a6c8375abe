"""The colours of all pictures. Each colour has one meaning.

Orange, blue and green follow the palette of Okabe and Ito: they can be told apart from one another and from the greys
with normal vision, protanopia and deuteranopia. Everything without a colour of its own is black or grey.
"""

#: Events: a pixel became brighter (ON) or darker (OFF).
ON, OFF = "#e67300", "#0072b2"
#: The true class: the digit that was shown.
TRUE = "#009e73"
#: Weights: positive ones excite a neuron, negative ones inhibit it.
POSITIVE, NEGATIVE = "#7a3e9d", "#7a7000"

#: Greys for everything else, from the most to the least prominent.
INK, SLATE, GREY, LIGHT = "#1f2733", "#5b6675", "#9aa3af", "#c9ced6"
#: The page, the background of a plot on it, and lines and tracks.
PAPER, PANEL, LINE = "#ffffff", "#f6f7f9", "#d9dde3"

#: Colours of the channels of a recording; a camera has two channels, OFF and ON.
CHANNELS = (OFF, ON, SLATE, GREY)
#: Styles of curves that differ in shade and line, as keyword arguments of matplotlib's `plot`.
SERIES = (
    {"color": INK, "ls": "-", "lw": 1.6},
    {"color": GREY, "ls": "-", "lw": 2.4},
    {"color": SLATE, "ls": "--", "lw": 1.6},
)
