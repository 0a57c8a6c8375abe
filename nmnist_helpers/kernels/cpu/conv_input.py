"""The gradient of a convolution's input, on the CPU.

In each time step, every neuron adds its gradient times the kernel to the pixels of its window, line by line. The
channels of a pixel lie side by side. All gradients are computed; a dense layer leaves some out (`input_gradient`).
"""

import numpy as np
import torch

from ...tasks import tasks
from ..constants import WEIGHT_STEPS
from ..window import Window
from .arithmetic import f32, i64
from .lanes import CHUNK, load_chunk, spread_chunk, store
from .layout import flat, pad


@tasks(error_model="numpy")
def _add_windows(b, grad_z, width, table, sizes, starts, next_line, begin, room, out):
    """Process one sample. `sizes` are the lines of a window, the chunks of a line, and the channels of a place."""
    _, steps, height, across = out.shape
    lines, chunks, features = sizes
    picture = np.empty(room, np.float32)  # padded so that all windows lie inside
    for t in range(steps):
        picture[:] = f32(0.0)
        row = (b * steps + t) * width
        for place in range(len(starts)):
            gradient = np.uint64(row + place * features)
            for line in range(lines):
                for chunk in range(chunks):
                    at = starts[place] + line * next_line + chunk * CHUNK
                    weights = (line * chunks + chunk) * features * CHUNK
                    total = load_chunk(picture, at)
                    for c in range(features):
                        g = spread_chunk(grad_z[gradient + np.uint64(c)])
                        total = total + load_chunk(table, weights + c * CHUNK) * g
                    store(picture, at, total)
        for y in range(height):
            first = begin + y * next_line
            out[b, t, y] = picture[first : first + across]


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
    table = pad(kernels.permute(1, 3, 2, 0).flatten(2).float() / WEIGHT_STEPS)  # [height, C_out, width * C_in]
    table = table.unflatten(2, (-1, CHUNK)).transpose(1, 2).contiguous()
    y, x = np.meshgrid(np.arange(rows) * window.stride[0], np.arange(columns) * window.stride[1], indexing="ij")
    out = torch.empty(batch, steps, height, across * channels)
    _add_windows(
        batch,
        grad_z=flat(grad_z),
        width=width,
        table=flat(table),
        sizes=np.array([window.kernel[0], table.shape[1], features]),
        starts=(y * next_line + x * channels).ravel().astype(i64),
        next_line=next_line,
        begin=top * next_line + left * channels,
        room=(top + height + below) * next_line + table.shape[1] * CHUNK,  # a line's last chunk may extend past it
        out=out.numpy(),
    )
    return out.unflatten(3, (across, channels)).permute(0, 1, 4, 2, 3)
