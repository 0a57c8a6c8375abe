"""The constants of the network's arithmetic, defined in this module alone."""

#: Decays are stored x4096: 1024 stands for 0.25.
DECAY_SCALE = 4096
#: Neuron states are integers: value x 4096.
STATE_SCALE = 4096
#: Exported weights and thresholds are integers: value x 64.
WEIGHT_SCALE = 64
#: Quantised weights are multiples of 1/32, so that one byte holds them as ``value x 32``, from -4 to 127/32.
WEIGHT_STEPS = 32
LOWEST_STEP, HIGHEST_STEP = -128, 127
#: Longest learned delay in time steps, what the spike buffers of the hardware hold.
MAX_DELAY = 62
#: States are kept in 32 bits, with one bit to spare: a sum of two cannot wrap.
MAX_STATE = 2**30 - 1
#: A threshold that no voltage can pass: no spike, no reset.
NEVER = 2**31 - 1
