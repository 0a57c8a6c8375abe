"""The colours of all pictures, and the one thing that each of them means.

Orange and blue are Okabe and Ito's, the green too: with normal vision, protanopia and deuteranopia they remain distinct
from one another and from the greys. Whatever has no colour of its own is black or grey.
"""

#: Events: a pixel became brighter (ON) or darker (OFF).
ON, OFF = "#e67300", "#0072b2"
#: The true class: the digit that was shown.
TRUE = "#009e73"
#: Weights: positive ones excite a neuron, negative ones inhibit it.
POSITIVE, NEGATIVE = "#7a3e9d", "#7a7000"

#: Everything else, from what stands out to what recedes.
INK, SLATE, GREY, LIGHT = "#1f2733", "#5b6675", "#9aa3af", "#c9ced6"
#: Grounds: the page, the plot on it, lines and tracks.
PAPER, PANEL, LINE = "#ffffff", "#f6f7f9", "#d9dde3"

#: Of the channels of a recording; a camera has two.
CHANNELS = (OFF, ON, SLATE, GREY)
#: Curves that a reader must tell apart, by their shade and their line: keyword arguments of matplotlib's `plot`.
SERIES = (
    {"color": INK, "ls": "-", "lw": 1.6},
    {"color": GREY, "ls": "-", "lw": 2.4},
    {"color": SLATE, "ls": "--", "lw": 1.6},
)
