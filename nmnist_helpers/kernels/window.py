"""The geometry of a convolution: which pixels of the picture below each neuron receives."""

from typing import NamedTuple

import torch

Picture = tuple[int, int, int]  # channels, height, width
Pair = tuple[int, int]  # height, width


class Window(NamedTuple):
    """The geometry of a convolution.

    inputs, outputs : channels, height and width of the picture below and of the layer's neurons;
    kernel, stride, padding : height and width, in pixels of the picture below;
    groups : number of groups of connected channels; pooling has one group per channel.
    """

    inputs: Picture
    outputs: Picture
    kernel: Pair
    stride: Pair
    padding: Pair
    groups: int = 1

    @property
    def places(self) -> int:
        """Number of neurons of one channel."""
        return self.outputs[1] * self.outputs[2]

    @property
    def neurons(self) -> int:
        """Number of neurons of all channels."""
        return self.outputs[0] * self.places

    @property
    def around(self) -> tuple[int, int, int, int]:
        """Zeros to add left, right, above and below the picture, so that all windows lie inside (as for `F.pad`)."""
        (top, left), (_, height, width) = self.padding, self.inputs
        below, right = (
            max(0, (out - 1) * step + size - side - before)
            for out, step, size, side, before in zip(
                self.outputs[1:], self.stride, self.kernel, (height, width), self.padding, strict=True
            )
        )
        return left, right, top, below

    def kernels(self, weights: torch.Tensor) -> torch.Tensor:
        """Reshape weights [C_out, n] to [C_out, C_in / groups, height, width]."""
        return weights.reshape(self.outputs[0], -1, *self.kernel)
