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
#: Most inputs of a neuron: 2**16 inputs x 128 steps of weight x 128 units of state per step would reach 2**30. (The
#: sums of float32 on a GPU would be exact up to 2**17 inputs.)
MAX_INPUTS = 2**16 - 1
#: Sums of squares that torch's weight normalisation adds up side by side for a row, on an x86 CPU with AVX2.
NORM_LANES = 8
#: Longest learned delay in time steps: the capacity of the hardware's spike buffers.
MAX_DELAY = 62
#: Largest magnitude of a state. States are stored in 32 bits; this leaves one bit, so that a sum of two cannot wrap.
MAX_STATE = 2**30 - 1
#: A threshold that no voltage can exceed: the neuron never spikes and is never reset.
NEVER = 2**31 - 1
