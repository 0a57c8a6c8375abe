"""lava-dl's other names for what a neuron has: its programs read and change them, this package does not use them."""

import math


class LavaNames:
    """Base class of `Neuron`, which has the attributes below."""

    threshold: float
    tau_grad: float
    scale_grad: float
    w_scale: int
    s_scale: int

    @property
    def _threshold(self) -> float:
        return self.threshold

    @_threshold.setter
    def _threshold(self, value: float) -> None:
        width = self.tau_rho
        self.threshold = value
        self.tau_rho = width

    @property
    def tau_rho(self) -> float:
        """``tau_grad * threshold``, lava-dl's width of the surrogate derivative."""
        return self.tau_grad * self.threshold

    @tau_rho.setter
    def tau_rho(self, value: float) -> None:
        self.tau_grad = value / self.threshold

    @property
    def scale_rho(self) -> float:
        """lava-dl's name of `scale_grad`."""
        return self.scale_grad

    @scale_rho.setter
    def scale_rho(self, value: float) -> None:
        self.scale_grad = value

    @property
    def scale(self) -> int:
        """Number of integer weight units per real unit."""
        return self.w_scale

    @property
    def ref_delay(self) -> int:
        """Refractory time in time steps: always 1, the step of the reset."""
        return 1

    @property
    def weight_exponent(self) -> int:
        """Power of two between the units of weights and states, minus the 6 bits that the chip itself adds."""
        return int(math.log2(self.s_scale // self.w_scale)) - 6
