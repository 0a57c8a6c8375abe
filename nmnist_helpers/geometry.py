"""The geometry of the event camera's sensor, and the size of an event in its files."""

#: Side of the sensor in pixels.
SIDE = 34
PIXELS = SIDE * SIDE
#: Channels of a network's input: channel = polarity * PIXELS + y * SIDE + x.
CHANNELS = 2 * PIXELS
#: Times in the files are 23-bit numbers of microseconds, below this one.
MAX_TIME = 2**23
#: Bytes of an event in a .bin file.
EVENT_BYTES = 5
