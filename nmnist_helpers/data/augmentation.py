"""Small random changes to a recording that leave its digit readable: rotation, shift, and several optional ones.

The random numbers of a recording are drawn first, as one row of integers (its draw). All further steps are integer
arithmetic. Therefore the code for one recording here, Numba's in `binning`, Triton's in `binning_gpu` and the tensor
operations in `device` move every event to the same pixel and the same microsecond on every machine.
"""

import inspect
import math

import numpy as np
import torch

from ..checks import as_number
from ..geometry import SIDE
from ..io import Event
from .draw import FLIP, GOLDEN, GRID, KEY, MASK, ONE, SHAPE, check_draws, mix, move, time_offset, warp

#: Largest change of size and largest slant (degrees): more would make most digits unreadable.
MAX_STRETCH, MAX_SHEAR = 0.5, 45
#: Number of uniform random numbers from which the draw of one recording is made.
UNIFORMS = 5
#: Standard deviation of the sum of four 16-bit uniform numbers.
_SUM_STD = math.sqrt((2**32 - 1) / 3)


class Augment:
    """Rotate and shift a recording at random; optionally change its shape, its events' times or its polarities.

    Events that leave the 34 x 34 sensor are dropped, as are events that the jitter moves before time 0. Calling an
    `Augment` with an `Event` returns a new `Event`; the argument is not changed.

    Parameters
    ----------
    max_angle : float
        Rotation about the image centre (16.5, 16.5), 0..180 degrees: uniform in -max_angle..+max_angle. Positive angles
        are clockwise, because rows are numbered from the top.
    max_shift : int
        Shift in x and in y, 0..33 pixels: each a whole number, uniform in -max_shift..+max_shift.
    event_dropout : float
        Probability of dropping an event, 0..1.
    time_jitter : float
        Standard deviation, 0..1000 ms, of a nearly normal offset that is added to each event's time. The offset is a
        sum of four uniform numbers, so it never exceeds 3.46 standard deviations.
    polarity_flip : float
        Probability that ON and OFF are swapped in a whole recording, 0..1.
    rng : numpy.random.Generator, optional
        Source of the random numbers of single calls. By default it is torch's global generator: ``torch.manual_seed``
        makes a run repeatable, and the workers of a DataLoader differ from each other. With `rng`, each worker uses a
        generator of its own, seeded from `rng` and from the worker's seed. `EventLoader` uses its own seed instead.
    max_warp : float
        Elastic distortion (Simard, Steinkraus and Platt, 2003), 0..11 pixels: sixteen points, 11 pixels apart, each
        move in x and in y by a distance uniform in -max_warp..+max_warp. The pixels between them follow, by bilinear
        interpolation.
    max_stretch : float
        Change of size, 0..0.5: width and height are each multiplied by a factor uniform in 1 - max_stretch..1 +
        max_stretch.
    max_shear : float
        Slant, 0..45 degrees: upright lines lean to the left or the right by up to this angle, uniform in its tangent.
        Digits are first stretched, then sheared, then rotated.

    Raises
    ------
    ValueError
        If a number is out of range; in a call, if the event has no rows or a pixel outside the sensor.
    TypeError
        If `rng` is no generator of NumPy.

    Examples
    --------
    >>> training_set = NMNISTDataset(train=True, transform=Augment(max_angle=10, time_jitter=0.5))
    """

    def __init__(
        self,
        max_angle: float = 5.0,
        max_shift: int = 4,
        event_dropout: float = 0.0,
        time_jitter: float = 0.0,
        polarity_flip: float = 0.0,
        rng: np.random.Generator | None = None,
        max_warp: float = 0.0,
        max_stretch: float = 0.0,
        max_shear: float = 0.0,
    ):
        for name, value, most, words in (
            ("max_angle", max_angle, 180, "0..180 degrees"),
            ("max_shift", max_shift, SIDE - 1, f"whole pixels in 0..{SIDE - 1}"),
            ("event_dropout", event_dropout, 1, "a probability 0..1"),
            ("polarity_flip", polarity_flip, 1, "a probability 0..1"),
            ("time_jitter", time_jitter, 1000, "0..1000 ms"),
            ("max_warp", max_warp, GRID, f"0..{GRID} pixels"),
            ("max_stretch", max_stretch, MAX_STRETCH, f"0..{MAX_STRETCH}"),
            ("max_shear", max_shear, MAX_SHEAR, f"0..{MAX_SHEAR} degrees"),
        ):
            if not 0 <= as_number(value) <= most or (name == "max_shift" and value != int(value)):
                raise ValueError(f"{name}: expected {words}, found {value!r}")
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng: expected a numpy.random.Generator, found {type(rng).__name__}")
        self.max_angle, self.max_shift = float(max_angle), int(max_shift)
        self.event_dropout, self.time_jitter = float(event_dropout), float(time_jitter)
        self.polarity_flip, self.max_warp = float(polarity_flip), float(max_warp)
        self.max_stretch, self.max_shear = float(max_stretch), float(max_shear)
        self.rng = rng
        self._worker_seed: int | None = None

    def __repr__(self) -> str:
        return f"Augment({', '.join(f'{name}={value:g}' for name, value in zip(SETTINGS, self.settings, strict=True))})"

    @property
    def settings(self) -> tuple:
        """The parameters in their order, without `rng`: equal settings turn equal numbers into equal draws."""
        return tuple(getattr(self, name) for name in SETTINGS)

    @property
    def drop_below(self) -> int:
        """Threshold of the event dropout: an event is dropped if its 32-bit random number is below this."""
        return round(self.event_dropout * 2**32)

    @property
    def jitter_scale(self) -> int:
        """Factor by which `time_offset` multiplies its sum of random numbers, in microseconds times 2^20."""
        return round(self.time_jitter * 1000 / _SUM_STD * ONE)

    @property
    def warp_scale(self) -> int:
        """Factor by which `warp` multiplies its sum of random numbers, in 1 / 2^21 pixels times 2^20."""
        return round(self.max_warp * 2 * ONE * ONE / (GRID * GRID * 65535))

    def draws(self, uniform: np.ndarray) -> np.ndarray:
        """Compute draws from uniform random numbers, one row of numbers for each recording.

        Parameters
        ----------
        uniform : float64 array [n, 5]
            Numbers u with 0 <= u < 1.

        Returns
        -------
        int64 array [n, 8]
            Columns XX, XY, YX, YY, DX, DY, FLIP, KEY.

        Raises
        ------
        ValueError
            If the shape is another one, or if a number lies outside the range.
        """
        uniform = np.asarray(uniform, dtype=np.float64)
        if uniform.ndim != 2 or uniform.shape[1] != UNIFORMS:
            raise ValueError(f"uniform: expected shape [n, {UNIFORMS}], found {uniform.shape}")
        if not ((uniform >= 0) & (uniform < 1)).all():
            raise ValueError("uniform: expected numbers of at least 0 and below 1, found others")
        angle = np.radians((2 * uniform[:, 0] - 1) * self.max_angle)
        shift = np.floor(uniform[:, 1:3] * (2 * self.max_shift + 1)) - self.max_shift
        key = np.floor(uniform[:, 4] * 2**32).astype(np.int64)
        # From the key, so that the five uniform numbers, and with them all older runs, stay what they are.
        width, height, slant = mix((mix(key ^ SHAPE) + np.arange(3)[:, None] * GOLDEN) & MASK) / 2**31 - 1
        width, height = 1 + width * self.max_stretch, 1 + height * self.max_stretch
        slant = slant * math.tan(math.radians(self.max_shear))
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = [cos * width, (cos * slant - sin) * height, sin * width, (sin * slant + cos) * height]
        columns = [*(np.rint(entry * ONE) for entry in matrix), *shift.T, uniform[:, 3] < self.polarity_flip, key]
        return np.stack(columns, axis=1).astype(np.int64)

    def apply(self, draw: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray):
        """Apply one draw to the events of one recording.

        Parameters
        ----------
        draw : int64 array [8]
            A row of the result of `draws`.
        x, y, p : arrays [n]
            Pixel and polarity (0 or 1); fractions are rounded.
        t : array [n]
            Times in ms.

        Returns
        -------
        x, y, p : int64 arrays [m]
        t : float64 array [m], ms

        Raises
        ------
        ValueError
            If a pixel lies outside the sensor, if polarities are swapped and one is neither 0 nor 1, if the arrays
            differ in length, or if the draw has another shape.
        """
        check_draws(np.asarray(draw)[None], 1)
        new_x, new_y, p, t, keep = self._moved(draw, x, y, p, t)
        return new_x[keep], new_y[keep], p[keep], t[keep]

    def _moved(self, draw: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray):
        """Return x, y, p and t of all events after a draw, and whether each of them is kept."""
        flip, key = int(draw[FLIP]), int(draw[KEY])
        x, y, p = (np.rint(np.asarray(a)).astype(np.int64) for a in (x, y, p))  # as `Event.to_tensor` rounds
        t = np.asarray(t, dtype=np.float64)
        for name, values in (("y", y), ("polarities", p), ("t", t)):
            if values.shape != x.shape:
                raise ValueError(
                    f"augment: expected {name} of shape {list(x.shape)}, like x, found {list(values.shape)}"
                )
        if x.size and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= SIDE):
            raise ValueError(
                f"augment: expected pixels 0..{SIDE - 1}, found x {x.min()}..{x.max()}, y {y.min()}..{y.max()}"
            )
        if flip and x.size and (p.min() < 0 or p.max() > 1):
            raise ValueError(f"polarity flip: expected polarities 0 and 1, found {p.min()}..{p.max()}")
        moved = warp(key, self.warp_scale, x, y) if self.warp_scale else (0, 0)
        new_x, new_y = move(draw, x, y, *moved)
        keep = (new_x >= 0) & (new_x < SIDE) & (new_y >= 0) & (new_y < SIDE)
        if self.event_dropout or self.time_jitter:
            number = mix((key + np.arange(len(x), dtype=np.int64) * GOLDEN) & MASK)
            keep &= number >= self.drop_below
        if self.time_jitter:
            late = np.rint(t * 1000) + time_offset(number, self.jitter_scale)
            keep &= late >= 0
            t = late / 1000
        return new_x, new_y, p ^ flip if flip else p, t, keep

    def __call__(self, event: Event) -> Event:
        """Return an augmented copy of `event` (x, y in 0..33, polarity c, t in ms, and its payload, if any)."""
        if getattr(event, "y", None) is None:
            raise ValueError("augment: expected an event on a 34 x 34 sensor, found one without rows (y)")
        draw = self.draws(self.uniform()[None])[0]
        x, y, c, t, keep = self._moved(draw, event.x, event.y, event.c, event.t)
        payload = getattr(event, "p", None)
        result = Event(x[keep], y[keep], c[keep], t[keep], None if payload is None else payload[keep])
        result.extent = getattr(event, "extent", None)
        return result

    def uniform(self) -> np.ndarray:
        """Draw the five uniform random numbers of one recording, float64 [5]."""
        if self.rng is None:
            return torch.rand(UNIFORMS, dtype=torch.float64).numpy()
        # Every worker starts with the same copy of the generator, again in each epoch, so it is seeded anew.
        worker = torch.utils.data.get_worker_info()
        if worker is not None and self._worker_seed != worker.seed:
            self.rng = np.random.default_rng([int(self.rng.integers(2**63)), worker.seed % 2**63])
            self._worker_seed = worker.seed
        return self.rng.random(UNIFORMS)


#: The names of all parameters of `Augment` but `rng`.
SETTINGS = tuple(name for name in inspect.signature(Augment).parameters if name != "rng")


def compiled_part(transform: object) -> Augment | None:
    """Return a transform that runs compiled, or None. A subclass of `Augment` may change events itself."""
    return transform if type(transform) is Augment else None


def scales_of(augment: Augment | None) -> tuple[int, int, int]:
    """Return `drop_below`, `jitter_scale` and `warp_scale`, which draws do not contain; zeros without augmentation."""
    return (augment.drop_below, augment.jitter_scale, augment.warp_scale) if augment else (0, 0, 0)


#: The augmentation that lava-dl's tutorial intends: rotations within +-5 degrees, shifts of -4..+4 pixels.
augment = Augment()
