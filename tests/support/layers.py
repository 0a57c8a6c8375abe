"""Small layers in integers, their input, and an oracle in exact fractions."""

from fractions import Fraction

import numpy as np

from nmnist_helpers.netx import LayerSpec
from nmnist_helpers.netx.simulator import END


def spec(rng, inputs, out, **changes):
    fields = {
        "type": "dense",
        "weight": 2 * rng.integers(-60, 61, (out, inputs)),
        "delay": rng.integers(0, 63, out),
        "i_decay": 1024,
        "v_decay": 123,
        "v_th_mant": 80,
    }
    return LayerSpec(**{**fields, **changes})


def small_layers(rng):
    return [
        spec(rng, 12, 9),
        spec(rng, 9, 8, i_decay=rng.integers(0, 4097, 8), v_decay=rng.integers(0, 4097, 8)),
        spec(rng, 8, 4, delay=None),
    ]


def random_spikes(rng, shape, rate=0.2):
    return (rng.random(shape) < rate).astype(np.uint8)


def oracle_layer(layer, spikes):
    batch, inputs, steps = spikes.shape
    out = np.zeros((batch, layer.out_features, steps), np.uint8)
    for b in range(batch):
        for o in range(layer.out_features):
            du, dv = (int(np.broadcast_to(d, layer.out_features)[o]) for d in (layer.i_decay, layer.v_decay))
            lag = 1 + (0 if layer.delay is None else int(layer.delay[o]))
            bias = 0 if layer.bias is None else Fraction(int(layer.bias[o]), 64)
            current = after_reset = 0  # x4096
            for t in range(steps):
                z = sum(Fraction(int(layer.weight[o, i]), 64) for i in range(inputs) if spikes[b, i, t])
                current = int(Fraction(current * (4096 - du), 4096)) + int(4096 * z)  # int() rounds toward zero
                while current > END:
                    current -= 2 * END
                while current <= -END:
                    current += 2 * END
                voltage = int(Fraction(after_reset * (4096 - dv), 4096)) + int(current + 4096 * bias)
                voltage = sorted([1 - END, voltage, END - 1])[1]
                after_reset = voltage
                if Fraction(voltage, 4096) > Fraction(layer.v_th_mant, 64):
                    after_reset = 0
                    if t + lag < steps:
                        out[b, o, t + lag] = 1
    return out


def oracle(layers, spikes):
    for layer in layers:
        spikes = oracle_layer(layer, spikes)
    return spikes
