"""How the neurons of a convolution look at the picture below: the geometry that the twins share."""

from typing import NamedTuple

import torch

Picture = tuple[int, int, int]  # channels, height, width
Pair = tuple[int, int]  # height, width


class Window(NamedTuple):
    """The geometry of a convolution.

    inputs, outputs : channels, height and width of the picture below and of the neurons;
    kernel, stride, padding : height and width, in pixels of the picture below;
    groups : blocks of connected channels; pooling has a block for each channel.
    """

    inputs: Picture
    outputs: Picture
    kernel: Pair
    stride: Pair
    padding: Pair
    groups: int = 1

    @property
    def places(self) -> int:
        """Neurons of one channel."""
        return self.outputs[1] * self.outputs[2]

    @property
    def neurons(self) -> int:
        """Neurons of all channels."""
        return self.outputs[0] * self.places

    @property
    def around(self) -> tuple[int, int, int, int]:
        """Zeros left, right, above and below the picture, as far as the windows reach: what `F.pad` takes."""
        (top, left), (_, height, width) = self.padding, self.inputs
        below, right = (
            max(0, (out - 1) * step + size - side - before)
            for out, step, size, side, before in zip(
                self.outputs[1:], self.stride, self.kernel, (height, width), self.padding, strict=True
            )
        )
        return left, right, top, below

    def kernels(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights [C_out, n], n one after the other as torch has them, as [C_out, C_in / groups, height, width]."""
        return weights.reshape(self.outputs[0], -1, *self.kernel)
