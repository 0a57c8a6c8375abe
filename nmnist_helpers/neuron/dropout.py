"""Dropout of whole neurons: one that is dropped stays silent for the length of the sample."""

import torch


class Dropout(torch.nn.Module):
    """Drop a neuron with probability `p` for the whole duration, scale the others by 1/(1-p).

    Parameters
    ----------
    p : float
        Probability to be dropped, 0 <= p < 1.
    inplace : bool
        Accepted for lava-dl's sake; the spikes are never changed in place.

    Raises
    ------
    ValueError
        If p is not in [0, 1).

    Examples
    --------
    >>> drop = Dropout(p=0.05)
    >>> drop(torch.ones(1, 2, 3)).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: expected a probability p in [0, 1), found {p}")
        self.p = p
        self.inplace = inplace

    @property
    def active(self) -> bool:
        """Whether anything is dropped now: in training, with p > 0."""
        return self.training and self.p > 0

    @property
    def value(self) -> float:
        """What a spike is worth after dropout: 1/(1-p) while active, else 1."""
        return 1.0 / (1.0 - self.p) if self.active else 1.0

    def draw(self, batch: int, channels: int, device: torch.device) -> torch.Tensor | None:
        """Draw who stays: uint8 [B, C], 0 = dropped; None while nothing is dropped."""
        if not self.active:
            return None
        return (torch.rand(batch, channels, device=device) >= self.p).to(torch.uint8)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Apply dropout to spikes [B, C, ..., T]; every neuron (all axes but the last) is drawn on its own."""
        if not self.active:
            return spikes
        kept = torch.rand(spikes.shape[:-1], device=spikes.device) >= self.p
        return spikes * (kept.to(spikes.dtype) * self.value)[..., None]

    def extra_repr(self) -> str:
        return f"p={self.p}"
