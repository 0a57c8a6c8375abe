"""Small layers in integers, their input, and an oracle in exact fractions."""

from fractions import Fraction

import h5py
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


def write_as_lava_dl(path, layers):
    """Write a file as lava-dl does: uncompressed, the neuron's type of variable length, a shared decay as an array."""
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(layers):
            group = file.create_group(f"layer/{index}")
            group.create_dataset("type", (1,), "S10", [b"dense"])
            group.create_dataset("shape", data=np.array([layer.out_features]))
            group.create_dataset("inFeatures", data=layer.in_features)
            group.create_dataset("outFeatures", data=layer.out_features)
            group.create_dataset("weight", data=layer.weight.astype(np.float32))
            if layer.delay is not None:
                group.create_dataset("delay", data=layer.delay.astype(np.float32))
            decays = {"iDecay": np.atleast_1d(layer.i_decay), "vDecay": layer.v_decay}
            for name, value in {"type": "CUBA", **decays, "vThMant": 80, "refDelay": 1}.items():
                group.create_dataset(f"neuron/{name}", data=value)
            group.create_dataset("neuron/gradedSpike", data=False)
    return path
