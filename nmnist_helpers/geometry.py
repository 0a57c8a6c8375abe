"""The geometry of the event camera's sensor, and constants of its files."""

#: Side of the square sensor in pixels.
SIDE = 34
PIXELS = SIDE * SIDE
#: Number of input channels of a network: channel = polarity * PIXELS + y * SIDE + x.
CHANNELS = 2 * PIXELS
#: Times in the files are 23-bit integers in microseconds, so they are below this number.
MAX_TIME = 2**23
#: Bytes per event in a .bin file.
EVENT_BYTES = 5
