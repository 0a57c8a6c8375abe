"""The response of the simulated sensor's pixels to light: the compiled part of the simulation (see `sensor`)."""

import math
from collections import namedtuple
from dataclasses import fields

import numpy as np

from ..geometry import SIDE
from ..jit.compiled import njit
from .digits import IMAGE_SIDE
from .path import PATH_LIMITS, PATH_STEP, PAUSES
from .sensor import SensorParams

#: Time step of the simulation, microseconds. Within a step, the log light changes linearly.
STEP = 1000.0
#: The log light is computed on a grid with a spacing of half a pixel: its first coordinate (in pixels from the image's
#: centre), and its number of points on each side.
GRID_START, GRID = -22.5, 90
#: An event is coded as one integer: time, polarity, row and column, from high bits to low, so that codes sort by time.
TIME_SHIFT, POLARITY_SHIFT, ROW_SHIFT = 13, 12, 6
#: A grid point with log light below this, a tenth of a threshold, is inked. Pixels that ink never passes are still.
FAINT = -0.02
#: Log light below which a pixel counts as inked at the start of a recording.
INKED = -0.1
#: Polarities, and the pixel of events that come from anywhere. Numba would compile a function that is called with a
#: plain number once more for that number.
OFF, ON, ANYWHERE = np.int64(0), np.int64(1), np.int64(-1)

#: `SensorParams` in a form that compiled code accepts, without the path.
Constants = namedtuple("Constants", [field.name for field in fields(SensorParams) if field.name != "path"])


def constants(params: SensorParams) -> Constants:
    """Return the constants of `params` as floats, without the path, which is passed separately."""
    values = (getattr(params, name) for name in Constants._fields)
    return Constants(*(tuple(map(float, v)) if isinstance(v, tuple) else float(v) for v in values))


@njit()
def _random_bits(state):
    """Draw 64 random bits with splitmix64 (Steele, Lea, Flood, OOPSLA 2014) and advance its counter ``state[0]``."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    bits = state[0]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@njit()
def _uniform(state):
    """Draw a uniform random number in (0, 1)."""
    return (float(_random_bits(state) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit()
def _normal(state):
    """Draw a nearly standard normal number: a sum of four uniform 16-bit numbers, within +-3.5."""
    bits, low = _random_bits(state), np.uint64(0xFFFF)
    total = float(bits & low) + float((bits >> np.uint64(16)) & low)
    total += float((bits >> np.uint64(32)) & low) + float(bits >> np.uint64(48))
    return (total - 131070.0) / 37837.2


@njit()
def log_light(image, lens, grid):
    """Fill `grid` [GRID, GRID] with the log light of `image` [28, 28] after the optics; the log light of paper is 0."""
    dark = 1.0 - math.exp(-lens.contrast)
    cells = 10  # grid points along a side: a screen pixel with its blur extends 2.25 pixels to each side
    edge, share = np.empty((2, cells + 2)), np.empty((2, cells))
    first = np.empty(2, np.int64)
    grid[:] = 0.0
    for row in range(IMAGE_SIDE):
        for column in range(IMAGE_SIDE):
            if image[row, column] == 0:
                continue
            ink = dark * (image[row, column] / 255.0) ** lens.gamma
            x, y = column - 0.5 * (IMAGE_SIDE - 1), row - 0.5 * (IMAGE_SIDE - 1)
            for axis in range(2):
                centre = lens.zoom * x - lens.tilt * y if axis else lens.zoom * y + lens.tilt * x
                first[axis] = int(math.floor((centre - 2.25 - GRID_START) * 2)) + 1
                # A square of width 1, blurred by a Gaussian, is a difference of error functions.
                for k in range(cells + 2):
                    place = GRID_START + 0.5 * (first[axis] + k - 1) - centre
                    edge[axis, k] = 0.5 * math.erf(place / (math.sqrt(2.0) * lens.blur))
                for k in range(cells):
                    share[axis, k] = edge[axis, k + 2] - edge[axis, k]
            for i in range(cells):
                for j in range(cells):
                    grid[first[0] + i, first[1] + j] += ink * share[0, i] * share[1, j]
    for i in range(GRID):
        for j in range(GRID):
            if grid[i, j] > 0:
                grid[i, j] = math.log(1.0 - min(grid[i, j], 0.9999))


@njit()
def displacement(path, delays, ms):
    """Return the displacement (right, down) of the image at time `ms` in pixels; saccade k is ``delays[k]`` ms late.

    The knots of `path` are joined by a cubic Catmull-Rom spline, so that the speed is continuous.
    """
    delay = delays[2]
    for k in range(2):
        begin, end = PAUSES[k]
        if ms < end:
            part = min(max((ms - begin) / (end - begin), 0.0), 1.0)
            delay = delays[k] + part * (delays[k + 1] - delays[k])
            break
    last = len(path) - 1
    knot = min(max((ms - delay) / PATH_STEP, 0.0), float(last))
    i = min(int(knot), last - 1)
    f = knot - i
    place = np.empty(2)
    for axis in range(2):
        a, b = path[i, axis], path[i + 1, axis]
        slope_a = 0.5 * (b - path[max(i - 1, 0), axis])
        slope_b = 0.5 * (path[min(i + 2, last), axis] - a)
        bend = slope_a + slope_b - 2 * (b - a)
        place[axis] = a + f * (slope_a + f * ((b - a) - slope_a - bend + f * bend))
        place[axis] = min(max(place[axis], PATH_LIMITS[0]), PATH_LIMITS[1])  # limits of the grid
    return place[0], place[1]


@njit()
def _locate_pixel(path, delays, cell, weight):
    """Compute where pixel (0, 0) is in the grid at each step: index `cell` [S] and bilinear weights `weight` [S, 4]."""
    for step in range(len(cell)):
        right, down = displacement(path, delays, step * STEP * 1e-3)
        x = (-0.5 * (IMAGE_SIDE - 1) - right - GRID_START) * 2
        y = (-0.5 * (IMAGE_SIDE - 1) - down - GRID_START) * 2
        column, row = int(math.floor(x)), int(math.floor(y))
        fx, fy = x - column, y - row
        cell[step] = row * GRID + column
        weight[step, 0], weight[step, 1] = (1 - fy) * (1 - fx), (1 - fy) * fx
        weight[step, 2], weight[step, 3] = fy * (1 - fx), fy * fx


@njit()
def _append_event(out, count, time, polarity, pixel):
    """Write an event to `out` if there is room for it; return the new count, even if there was none."""
    if count < len(out):
        out[count] = (np.int64(time) << TIME_SHIFT) | (polarity << POLARITY_SHIFT) | pixel
    return count + 1


@njit()
def _append_pixel_events(
    light, base, cell, weight, off_mean, on_mean, refractory, leak, end, p, pixel, state, out, count
):
    """Append the events of a pixel with log light ``light[base + cell]`` to `out`; return the new count of events.

    The count goes on beyond the length of `out`.
    """
    on, off = on_mean, off_mean
    before = reference = 0.0
    ready = release = -1.0  # times until which the pixel is silent, and is held in reset
    for step in range(len(cell)):
        at = base + cell[step]
        now = weight[step, 0] * light[at] + weight[step, 1] * light[at + 1]
        now += weight[step, 2] * light[at + GRID] + weight[step, 3] * light[at + GRID + 1]
        now += leak * step  # in a real pixel the reference leaks downwards, with the same effect
        if step == 0:
            # Change since the last event before the recording. Without ink, the pixel is at a random phase of its leak.
            progress = _uniform(state) * (off + p.rest_ink * on) - off if now < INKED else _uniform(state) * on
            before, reference = now, now - progress
            continue
        start = (step - 1) * STEP
        stop = start + STEP
        slope = (now - before) / STEP
        if start <= release < stop:
            reference = before + slope * (release - start)
        free = max(ready, start)
        while free < stop:
            if now - reference >= on:
                level, polarity = reference + on, ON
            elif reference - now >= off:
                level, polarity = reference - off, OFF
            else:
                break
            time = start
            if slope != 0.0:  # the time at which the log light crossed the level
                time += min(max((level - before) / slope, 0.0), STEP)
            time = max(time, free)
            if time + p.latency < end:
                count = _append_event(out, count, time + p.latency, polarity, pixel)
            on, off = on_mean * (1 + p.noise * _normal(state)), off_mean * (1 + p.noise * _normal(state))
            free = ready = time + refractory
            release = time + p.reset
            if release < stop:
                reference = before + slope * (release - start)
        before = now
    return count


@njit()
def _append_random_events(rate, end, pixel, state, out, count):
    """Append events at random times and of random polarity, `rate` per second, to `out`; return the new count.

    They come from `pixel`, or from random pixels if it is `ANYWHERE`.
    """
    time = 0.0
    while rate > 0:
        time -= math.log(_uniform(state)) * 1e6 / rate
        if time >= end:
            break
        polarity, place = int(_uniform(state) * 2), pixel
        if pixel < 0:
            any_pixel = int(_uniform(state) * SIDE * SIDE)
            place = ((any_pixel // SIDE) << ROW_SHIFT) | (any_pixel % SIDE)
        count = _append_event(out, count, time, polarity, place)
    return count


@njit(nogil=True)
def record(images, states, path, p, thresholds, refractory, leaks, hot, out, counts):
    """Record each image: write its events, pixel by pixel, to a row of `out`, and their number to `counts`.

    Parameters
    ----------
    images : uint8 array [N, 28, 28]
    states : uint64 array [N]
        Initial state of each digit's random numbers.
    path : float array [K, 2]
        Displacements to the right and down, in pixels, every `PATH_STEP` ms.
    p : Constants
    thresholds : float array [2, 34, 34]
        OFF and ON thresholds in log light.
    refractory : float array [34, 34]
        Refractory times in microseconds.
    leaks : float array [34, 34]
        ON events per second of a still pixel.
    hot : int64 array [H]
        The hot pixels, each as ``row << ROW_SHIFT | column``.
    out : int64 array [N, room]
        Gets the codes of the events: ``time << TIME_SHIFT | polarity << POLARITY_SHIFT | row << ROW_SHIFT | column``.
    counts : int64 array [N]
        Numbers of events. A number may exceed `room`; that row is then incomplete.
    """
    steps = int((p.duration + 6 * p.duration_spread + abs(p.delay[2]) + 4 * p.delay_spread[2]) * 1000 / STEP) + 2
    cell, weight = np.empty(steps, np.int64), np.empty((steps, 4))
    grid, ink = np.empty((GRID, GRID)), np.zeros((GRID + 1, GRID + 1), np.int64)
    delays = np.empty(3)
    for n in range(len(images)):
        state = states[n : n + 1].copy()
        log_light(images[n], p, grid)
        light = grid.reshape(-1)
        # The delay of the third saccade is correlated with that of the second, and the end depends on the third delay.
        draw = _normal(state), _normal(state), _normal(state)
        third = p.delay_link * draw[1] + math.sqrt(1 - p.delay_link**2) * draw[2]
        delays[0] = p.delay[0] + p.delay_spread[0] * draw[0]
        delays[1] = p.delay[1] + p.delay_spread[1] * draw[1]
        delays[2] = p.delay[2] + p.delay_spread[2] * third
        end = 1000 * (p.duration + delays[2] - p.delay[2] + p.duration_spread * _normal(state))
        _locate_pixel(path, delays, cell, weight)
        top = left = GRID
        bottom = right = 0
        for at in cell:
            top, bottom = min(top, at // GRID), max(bottom, at // GRID + 2)
            left, right = min(left, at % GRID), max(right, at % GRID + 2)
        # A summed-area table of inked grid points: four look-ups show whether ink ever passes a pixel.
        for i in range(GRID):
            for j in range(GRID):
                ink[i + 1, j + 1] = ink[i, j + 1] + ink[i + 1, j] - ink[i, j] + (grid[i, j] < FAINT)
        count = np.int64(0)
        for y in range(SIDE):
            for x in range(SIDE):
                pixel = (y << ROW_SHIFT) | x
                off, on = thresholds[0, y, x], thresholds[1, y, x]
                inked = ink[bottom + 2 * y, right + 2 * x] - ink[top + 2 * y, right + 2 * x]
                inked -= ink[bottom + 2 * y, left + 2 * x] - ink[top + 2 * y, left + 2 * x]
                if inked:
                    leak = leaks[y, x] * on * STEP * 1e-6
                    count = _append_pixel_events(
                        light, 2 * (y * GRID + x), cell, weight, off, on, refractory[y, x], leak, end,
                        p, pixel, state, out[n], count,
                    )  # fmt: skip
                elif leaks[y, x] > 0:
                    period = 1e6 / leaks[y, x]
                    time = _uniform(state) * period
                    while time < end:
                        count = _append_event(out[n], count, time, ON, pixel)
                        time += period
        count = _append_random_events(p.background * SIDE * SIDE, end, ANYWHERE, state, out[n], count)
        for pixel in hot:
            count = _append_random_events(p.hot_rate, end, pixel, state, out[n], count)
        counts[n] = count
