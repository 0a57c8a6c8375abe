"""The gradient of a convolution's input, on the CPU.

In each time step, every neuron adds its gradient times the kernel to the pixels of its window, line by line. The
channels of a pixel lie side by side. All gradients are computed; a dense layer leaves some out (`input_gradient`).
"""

import numpy as np
import torch
import torch.nn.functional as F

from ...jit.tasks import tasks
from ..constants import WEIGHT_STEPS
from ..window import Window
from .arithmetic import f32, i64
from .lanes import LANES, load, spread, store
from .layout import flat


@tasks(error_model="numpy")
def _add_windows(b, grad_z, width, table, sizes, starts, next_line, begin, room, out):
    """Process one sample, two time steps at once. The sums of three values of a line stay in registers.

    `sizes` are the lines of a window, the values (of `LANES` elements) of a line, and the channels of a place.
    """
    _, steps, height, across = out.shape
    lines, values, features = sizes
    next_value = features * LANES
    picture, other = np.empty(room, np.float32), np.empty(room, np.float32)  # padded so that all windows lie inside
    for t in range(0, steps, 2):
        picture[:] = f32(0.0)
        other[:] = f32(0.0)
        row = (b * steps + t) * width
        other_row = row + (width if t + 1 < steps else 0)  # the last step may be computed twice
        for place in range(len(starts)):
            g0, g1 = np.uint64(row + place * features), np.uint64(other_row + place * features)
            for line in range(lines):
                at, w = starts[place] + line * next_line, line * values * next_value
                for _ in range(values // 3):
                    p0, p1, p2 = load(picture, at), load(picture, at + LANES), load(picture, at + 2 * LANES)
                    q0, q1, q2 = load(other, at), load(other, at + LANES), load(other, at + 2 * LANES)
                    for c in range(features):
                        x, y = spread(grad_z[g0 + np.uint64(c)]), spread(grad_z[g1 + np.uint64(c)])
                        weights = load(table, w + c * LANES)
                        p0 = p0 + weights * x
                        q0 = q0 + weights * y
                        weights = load(table, w + next_value + c * LANES)
                        p1 = p1 + weights * x
                        q1 = q1 + weights * y
                        weights = load(table, w + 2 * next_value + c * LANES)
                        p2 = p2 + weights * x
                        q2 = q2 + weights * y
                    store(picture, at, p0)
                    store(picture, at + LANES, p1)
                    store(picture, at + 2 * LANES, p2)
                    store(other, at, q0)
                    store(other, at + LANES, q1)
                    store(other, at + 2 * LANES, q2)
                    at, w = at + 3 * LANES, w + 3 * next_value
                for _ in range(values % 3):
                    p0, q0 = load(picture, at), load(other, at)
                    for c in range(features):
                        weights = load(table, w + c * LANES)
                        p0 = p0 + weights * spread(grad_z[g0 + np.uint64(c)])
                        q0 = q0 + weights * spread(grad_z[g1 + np.uint64(c)])
                    store(picture, at, p0)
                    store(other, at, q0)
                    at, w = at + LANES, w + next_value
        for y in range(height):
            first = begin + y * next_line
            out[b, t, y] = picture[first : first + across]
            if t + 1 < steps:
                out[b, t + 1, y] = other[first : first + across]


def input_gradient(grad_z: torch.Tensor, kernels: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_input_gradient` on the CPU.

    Parameters
    ----------
    grad_z : float tensor [B, T, P]
        Ordered by place, the channels of a place side by side; the padding may hold any values.
    kernels : int8 tensor [C_in, height, width, C_out]
        Weights x32, with zeros between groups.
    window : Window

    Returns
    -------
    float tensor [B, T, C_in, H, W]
    """
    (batch, steps, width), (channels, height, across) = grad_z.shape, window.inputs
    features, rows, columns = window.outputs
    left, right, top, below = window.around
    next_line = (left + across + right) * channels
    table = kernels.permute(1, 3, 2, 0).flatten(2).float() / WEIGHT_STEPS  # [height, C_out, width * C_in]
    table = F.pad(table, (0, -table.shape[2] % LANES)).unflatten(2, (-1, LANES)).transpose(1, 2).contiguous()
    y, x = np.meshgrid(np.arange(rows) * window.stride[0], np.arange(columns) * window.stride[1], indexing="ij")
    out = torch.empty(batch, steps, height, across * channels, dtype=torch.float32)
    _add_windows(
        batch,
        grad_z=flat(grad_z),
        width=width,
        table=flat(table),
        sizes=np.array([window.kernel[0], table.shape[1], features]),
        starts=(y * next_line + x * channels).ravel().astype(i64),
        next_line=next_line,
        begin=top * next_line + left * channels,
        room=(top + height + below) * next_line + table.shape[1] * LANES,  # a line's last value may extend past it
        out=out.numpy(),
    )
    return out.unflatten(3, (across, channels)).permute(0, 1, 4, 2, 3)
