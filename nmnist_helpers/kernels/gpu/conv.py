"""Convolutions of spikes with quantised weights on a GPU: tiles of patches, multiplied on tensor cores.

A convolution is a product of the weights with a matrix of patches. A row of the weights is an output channel; a column
of patches holds the pixels of the window of one place at one time step. The matrix of patches never exists: a program
gathers the tiles that it multiplies. As in `matmul`, spikes and weights are multiplied exactly, and gradients are split
into two terms of eight bits each. Groups of channels become one matrix of weights with zeros between the groups.
"""

import math

import torch
import triton
import triton.language as tl

from ...spikes import Spikes
from ..common import check_fan_in
from ..window import Window
from .launch import on, sum_rows
from .matmul import OPERAND, eight_bits

PLACES = 128  # places in a tile, counted over all time steps; neighbours in memory
INNER = 32  # terms that a tile adds to its sums at a time
FEATURES = 64  # at most this many channels or pixels in a tile
SPLIT = 1024  # gradients that a program splits
PARTS = 1024  # programs that share the sums of a weight gradient, whatever the number of multiprocessors


@triton.jit
def split_kernel(grad, terms, N, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(grad + i, mask=i < N, other=0.0)
    leading = eight_bits(g)
    tl.store(terms + i, leading.to(terms.dtype.element_ty), mask=i < N)
    tl.store(terms + N + i, eight_bits(g - leading).to(terms.dtype.element_ty), mask=i < N)


@triton.jit
def patches(
    spikes, m, k, M, K, row, height, width, down, across, top, left,
    COUNT: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr, LONG: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Load the pixels `k` of the windows of the places `m` as a tile [k, m], with zeros outside of the picture."""
    sample, place = m // COUNT, m % COUNT
    channel, position = k // (HIGH * LONG), k % (HIGH * LONG)
    y, x = place // WIDE * down - top, place % WIDE * across - left  # upper left corner of a window
    i, j = position // LONG, position % LONG
    corner = spikes + (sample.to(tl.int64) * row + (y * width + x))
    inside = (k < K)[:, None] & (m < M)[None, :]
    if PADDED:
        inside &= (y[None, :] + i[:, None] >= 0) & (y[None, :] + i[:, None] < height)
        inside &= (x[None, :] + j[:, None] >= 0) & (x[None, :] + j[:, None] < width)
    return tl.load(corner[None, :] + ((channel * height + i) * width + j)[:, None], mask=inside, other=0)


@triton.jit
def product_kernel(
    spikes, weights, z, M, K, N, row, weight_row, value, height, width, down, across, top, left,
    COUNT: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr, LONG: tl.constexpr, PADDED: tl.constexpr,
    OPERAND: tl.constexpr, PLACES: tl.constexpr, INNER: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``z = value * weights @ patches``."""
    m = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    n = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    total = tl.zeros([FEATURES, PLACES], tl.float32)
    for first in range(0, K, INNER):
        k = first + tl.arange(0, INNER)
        w = tl.load(weights + n[:, None] * weight_row + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0)
        x = patches(spikes, m, k, M, K, row, height, width, down, across, top, left, COUNT, WIDE, HIGH, LONG, PADDED)
        total = tl.dot(w.to(OPERAND), x.to(OPERAND), total)
    at = z + ((m // COUNT).to(tl.int64) * (N * COUNT) + m % COUNT)[None, :] + n[:, None] * COUNT
    tl.store(at, total * value, mask=(n < N)[:, None] & (m < M)[None, :])


@triton.jit
def weight_gradient_kernel(
    spikes, terms, out, M, K, N, row, grad_row, rest, share, height, width, down, across, top, left,
    COUNT: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr, LONG: tl.constexpr, PADDED: tl.constexpr,
    OPERAND: tl.constexpr, FEATURES: tl.constexpr, INNER: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Compute ``out[part] = gradients @ patches.T`` [N, K] over the `share` of places of a part."""
    part = tl.program_id(0)
    k = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    n = tl.program_id(2) * FEATURES + tl.arange(0, FEATURES)
    total = tl.zeros([FEATURES, PIXELS], tl.float32)
    end = tl.minimum(M, (part + 1) * share)
    for first in range(part * share, end, INNER):
        m = first + tl.arange(0, INNER)
        x = patches(spikes, m, k, end, K, row, height, width, down, across, top, left, COUNT, WIDE, HIGH, LONG, PADDED)
        x = tl.trans(x.to(OPERAND))
        at = terms + ((m // COUNT).to(tl.int64) * grad_row + m % COUNT)[None, :] + n[:, None] * COUNT
        inside = (n < N)[:, None] & (m < end)[None, :]
        total = tl.dot(tl.load(at + rest, mask=inside, other=0).to(OPERAND), x, total)
        total = tl.dot(tl.load(at, mask=inside, other=0).to(OPERAND), x, total)
    out += part.to(tl.int64) * N * K
    tl.store(out + n[:, None] * K + k[None, :], total, mask=(n < N)[:, None] & (k < K)[None, :])


@triton.jit
def input_gradient_kernel(
    terms, weights, out, M, K, N, grad_row, rest, weight_row, height, width, down, across, top, left,
    COUNT: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr, LONG: tl.constexpr,
    OPERAND: tl.constexpr, PLACES: tl.constexpr, INNER: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the pixels at the same position within a stride, one of ``down * across`` positions.

    Imagine the picture divided into blocks of `down` x `across` pixels: a program computes the gradients of the pixels
    at one position within their blocks.
    """
    v, u = tl.program_id(2) // across, tl.program_id(2) % across
    high, wide = tl.cdiv(height, down), tl.cdiv(width, across)  # such pixels in a column and a row of the picture
    m = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    n = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    sample, pixel = (m // (high * wide)).to(tl.int64), m % (high * wide)
    b, a = pixel // wide, pixel % wide
    total = tl.zeros([FEATURES, PLACES], tl.float32)
    for i in range((v + top) % down, HIGH, down):
        y = b + (v + top - i) // down  # a whole quotient
        for j in range((u + left) % across, LONG, across):
            x = a + (u + left - j) // across
            inside = (m < M) & (y >= 0) & (y < COUNT // WIDE) & (x >= 0) & (x < WIDE)
            at = terms + (sample * grad_row + (y * WIDE + x))
            for first in range(0, K, INNER):
                k = first + tl.arange(0, INNER)
                w = tl.load(
                    weights + (n[:, None] * (HIGH * LONG) + k[None, :] * weight_row + (i * LONG + j)),
                    mask=(n < N)[:, None] & (k < K)[None, :], other=0,
                ).to(OPERAND)  # fmt: skip
                here, known = at[None, :] + k[:, None] * COUNT, (k < K)[:, None] & inside[None, :]
                total = tl.dot(w, tl.load(here + rest, mask=known, other=0).to(OPERAND), total)
                total = tl.dot(w, tl.load(here, mask=known, other=0).to(OPERAND), total)
    y, x = b * down + v, a * across + u
    at = out + (sample * N * height * width + (y * width + x))[None, :] + n[:, None] * (height * width)
    tl.store(at, total, mask=(n < N)[:, None] & ((m < M) & (y < height) & (x < width))[None, :])


def _block(count: int) -> int:
    """Return the size of a tile along an axis of `count` channels or pixels; tensor cores need at least 16."""
    return min(FEATURES, max(16, triton.next_power_of_2(count)))


def _count(*sizes: int) -> int:
    """Return the number of places or pixels in all time steps, which kernels count with 32 bits."""
    count, most = math.prod(sizes), 2**31 - PARTS * INNER
    if count > most:
        raise ValueError(f"convolution: expected at most {most} places in all time steps of a batch, found {count}")
    return count


def _bytes(spikes: Spikes) -> torch.Tensor:
    """Return spikes as 0/1 bytes [B, T, C] whose time steps are evenly spaced in memory, with adjacent channels."""
    rows = spikes.rows(torch.uint8, 1)
    even = rows.stride(2) == 1 and rows.stride(0) == rows.shape[1] * rows.stride(1)
    return rows if even else rows.contiguous()


def _geometry(window: Window) -> dict[str, int]:
    """Return the arguments of all kernels that describe the windows."""
    (height, width), (down, across), (top, left) = window.inputs[1:], window.stride, window.padding
    return {
        "height": height, "width": width, "down": down, "across": across, "top": top, "left": left,
        "COUNT": window.places, "WIDE": window.outputs[2], "HIGH": window.kernel[0], "LONG": window.kernel[1],
    }  # fmt: skip


def _padding(window: Window) -> dict[str, int]:
    """Return whether a kernel must look for pixels outside of the picture; more threads then have enough registers."""
    padded = any(window.around)
    return {"PADDED": padded, "num_warps": 8 if padded else 4}


def _expand_groups(weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Expand weights [C_out, C_in / groups * n] to [C_out, C_in * n], with zeros between groups."""
    if window.groups == 1:
        return weights
    blocks = weights.unflatten(0, (window.groups, -1)).unbind(0)
    return torch.block_diag(*blocks)


def _two_terms(grad_z: torch.Tensor) -> torch.Tensor:
    """Split gradients [B, T, C] into terms [2, B, T, C]: the leading eight bits of each, and the next eight."""
    grad = grad_z.contiguous()
    terms = torch.empty(2, *grad.shape, dtype=torch.bfloat16, device=grad.device)
    with on(grad):
        split_kernel[(triton.cdiv(grad.numel(), SPLIT),)](grad=grad, terms=terms, N=grad.numel(), BLOCK=SPLIT)
    return terms


def conv_product(spikes: Spikes, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_product` on a GPU, with weights from the GPU's `quantise`."""
    check_fan_in(window)
    batch, _, steps = spikes.shape
    m, weights = _count(batch, steps, window.places), _expand_groups(weights, window)
    rows, (outputs, inner) = _bytes(spikes), weights.shape
    features = _block(outputs)
    z = torch.empty(batch, steps, window.neurons, dtype=torch.float32, device=rows.device)
    with on(rows):
        product_kernel[(triton.cdiv(m, PLACES), triton.cdiv(outputs, features))](
            spikes=rows, weights=weights, z=z, M=m, K=inner, N=outputs, row=rows.stride(1),
            weight_row=weights.stride(0), value=float(spikes.value), **_geometry(window), **_padding(window),
            OPERAND=OPERAND, PLACES=PLACES, INNER=INNER, FEATURES=features,
        )  # fmt: skip
    return z


def conv_weight_gradient(spikes: Spikes, grad_z: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_weight_gradient` on a GPU, summed in a fixed order."""
    m = _count(*grad_z.shape[:2], window.places)
    rows, terms, groups = _bytes(spikes), _two_terms(grad_z), window.groups
    outputs, inner = window.outputs[0], window.inputs[0] * window.kernel[0] * window.kernel[1]
    pixels, features = _block(inner), _block(outputs)
    tiles = triton.cdiv(inner, pixels), triton.cdiv(outputs, features)
    share = triton.cdiv(triton.cdiv(m, max(1, PARTS // (tiles[0] * tiles[1]))), INNER) * INNER
    parts = triton.cdiv(m, share)
    found = torch.empty(parts, outputs, inner, dtype=torch.float32, device=rows.device)
    with on(rows):
        weight_gradient_kernel[(parts, *tiles)](
            spikes=rows, terms=terms, out=found, M=m, K=inner, N=outputs, row=rows.stride(1),
            grad_row=terms.stride(2), rest=terms.stride(0), share=share, **_geometry(window),
            **_padding(window), OPERAND=OPERAND, FEATURES=features, INNER=INNER, PIXELS=pixels,
        )  # fmt: skip
    whole = sum_rows(found.flatten(1), spikes.value).view(outputs, inner)
    blocks = whole.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    return torch.stack([blocks[group, :, group] for group in range(groups)]).flatten(0, 1)


def conv_input_gradient(grad_z: torch.Tensor, weights: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute `nmnist_helpers.kernels.reference.conv_input_gradient` on a GPU.

    (By default, cuDNN's transposed convolution would round the gradients to TF32, that is to eleven significant bits.)
    """
    terms, weights = _two_terms(grad_z), _expand_groups(weights, window)
    (_, batch, steps, _), (inputs, height, width), (down, across) = terms.shape, window.inputs, window.stride
    m = _count(batch, steps, triton.cdiv(height, down), triton.cdiv(width, across))
    features = _block(inputs)
    found = torch.empty(batch, steps, inputs, height, width, dtype=torch.float32, device=grad_z.device)
    with on(grad_z):
        input_gradient_kernel[(triton.cdiv(m, PLACES), triton.cdiv(inputs, features), down * across)](
            terms=terms, weights=weights, out=found, M=m, K=window.outputs[0], N=inputs,
            grad_row=terms.stride(2), rest=terms.stride(0), weight_row=weights.stride(0), **_geometry(window),
            OPERAND=OPERAND, PLACES=PLACES, INNER=INNER, FEATURES=features,
        )  # fmt: skip
    return found
