"""The constants of the simulated event camera, and how they were found.

The simulation goes from the image to the events in these steps:

1. The screen shows the digit dark on bright paper. MNIST stores ink as 255, so polarities are opposite to MNIST's
   grey values: ink that arrives at a pixel reduces its light and causes OFF events (0).
2. The optics blur the image (with a Gaussian; a screen pixel is a square), magnify it by one per cent and rotate it
   by one degree.
3. The camera turns. Relative to the sensor, the image moves along `path.PATH`.
4. A pixel responds to the logarithm of its light. It fires an event when the logarithm has changed by the pixel's
   threshold since its last reset. During the reset, changes are lost. Between the reset and the end of the refractory
   time, the pixel is silent, but changes still count.
5. The reset switch leaks, which has the effect of slowly rising light: a still pixel fires an ON event every 2.7 s.

The constants below were fitted to 600 recordings of N-MNIST with known digits (recording ``<id>`` shows training digit
``<id>`` of MNIST). `compare` was applied to 200 other recordings.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..geometry import SIDE
from .path import PATH, PATH_LIMITS


@dataclass(frozen=True)
class SensorParams:
    """The constants of a sensor. The defaults describe N-MNIST's camera, as far as its recordings reveal them.

    Parameters
    ----------
    contrast : float
        Logarithm of the ratio of the light of paper to the light of full ink; 1.596 is a ratio of 4.9. Fitted together
        with the thresholds, to the numbers of events at faint and strong edges.
    gamma : float
        Ink of grey value v absorbs ``(v / 255) ** gamma`` of the light that full ink absorbs.
    blur : float
        Standard deviation of the optics' blur in pixels. Fitted to the positions of the events.
    zoom : float
        Sensor pixels per image pixel. Fitted to the positions of the events.
    tilt : float
        Rotation of the image on the sensor in radians. Fitted to the positions of the events.
    threshold_on, threshold_off : float
        Change of the log light that causes an event. Fitted to the numbers of ON and OFF events.
    spread_on, spread_off : float
        Standard deviation of the thresholds between pixels, as a fraction of the threshold. Found by comparing each
        pixel's number of events in all 600 recordings with that of a sensor without spread.
    noise : float
        Standard deviation of a pixel's threshold between events, as a fraction of it. Fitted, like the next two, to
        the distribution of the times between a pixel's events.
    refractory : float
        Shortest time between two events of a pixel, microseconds; the median of all pixels.
    refractory_spread : float
        Standard deviation of the logarithm of `refractory` between pixels.
    reset : float
        Time after an event during which the pixel is held in reset, microseconds. Fitted to the numbers of events at
        fast and slow edges.
    latency : float
        Time from the crossing of the threshold to the event, microseconds. It is 0 because it is included in `PATH`:
        recordings do not mark the start of a movement, so a latency cannot be distinguished from a later movement.
    leak : float
        Mean number of ON events per second of a still pixel. Counted where there is never ink.
    leak_spread : float
        Standard deviation of the logarithm of `leak` between pixels. Counted at the same pixels: half of them have
        0.23 to 0.47 events per second.
    background : float
        Other events per pixel and second, half of them ON. Twice the rate of OFF events at the same pixels, 0.014.
    hot, hot_rate : int, float
        Number of hot pixels, which fire independently of the light, and their events per second. N-MNIST's camera has
        one, at (18, 30). `simulate` chooses its position from the seed.
    rest_ink : float
        How much of the threshold for an ON event a pixel with ink at the start may already have covered, as a fraction.
        (The digit appeared on the screen before the recording, which reduced the light.)
    delay, delay_spread : (float, float, float)
        Mean and standard deviation of each saccade's delay relative to `PATH`, ms. Measured in each recording by
        shifting the path to the best fit.
    delay_link : float
        Correlation between the delays of the second and the third saccade.
    duration, duration_spread : float
        Length of a recording with the mean delay of the third saccade, ms, and its standard deviation.
    path : tuple of (float, float)
        Positions of the image; see `path.PATH`.

    Raises
    ------
    ValueError
        If a constant has another shape or range than expected.
    """

    contrast: float = 1.596
    gamma: float = 1.069
    blur: float = 0.538
    zoom: float = 1.0085
    tilt: float = 0.016
    threshold_on: float = 0.2152
    threshold_off: float = 0.2012
    spread_on: float = 0.1
    spread_off: float = 0.09
    noise: float = 0.128
    refractory: float = 1370.0
    refractory_spread: float = 0.13
    reset: float = 160.0
    latency: float = 0.0
    leak: float = 0.37
    leak_spread: float = 0.5
    background: float = 0.028
    hot: int = 1
    hot_rate: float = 45.0
    rest_ink: float = 0.70
    delay: tuple[float, float, float] = (0.5, -0.4, -0.3)
    delay_spread: tuple[float, float, float] = (0.6, 2.9, 2.2)
    delay_link: float = 0.28
    duration: float = 309.0
    duration_spread: float = 0.8
    path: tuple[tuple[float, float], ...] = PATH

    def __post_init__(self):
        high, share = math.inf, 1.0
        limits = {
            "contrast": (0.01, 10), "gamma": (0.1, 10), "blur": (0.05, 0.75), "zoom": (0.9, 1.1), "tilt": (-0.1, 0.1),
            "threshold_on": (0.001, high), "threshold_off": (0.001, high), "spread_on": (0, share),
            "spread_off": (0, share), "noise": (0, 0.25), "refractory": (1, high), "refractory_spread": (0, share),
            "reset": (0, self.refractory), "latency": (0, high), "leak": (0, 1000), "leak_spread": (0, 2),
            "background": (0, 1000), "hot": (0, SIDE * SIDE), "hot_rate": (0, 10_000), "rest_ink": (0, share),
            "delay_link": (-1, 1), "duration": (1, 8000), "duration_spread": (0, 50), "delay": (-50, 50),
            "delay_spread": (0, 20), "path": PATH_LIMITS,
        }  # fmt: skip
        for name, (low, high) in limits.items():
            given = getattr(self, name)
            try:
                numbers = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError):
                numbers = np.empty(0)  # an array of a shape that no constant has
            usual = np.shape(getattr(type(self), name))  # of the default
            if numbers.shape != usual and not (name == "path" and numbers.shape[1:] == (2,) and len(numbers) > 1):
                words = "a number", "three numbers, one for each saccade", "two or more knots (right, down)"
                raise ValueError(f"{name}: expected {words[len(usual)]}, found {given!r}")
            wrong = numbers[~((low <= numbers) & (numbers <= high) & np.isfinite(numbers))]
            if wrong.size:
                raise ValueError(f"{name}: expected {low:g} to {high:g}, found {wrong[0]:g}")
        if self.hot != int(self.hot):
            raise ValueError(f"hot: expected a whole number, found {self.hot}")
        object.__setattr__(self, "hot", int(self.hot))
