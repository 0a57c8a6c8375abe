"""Dropout of whole neurons: a dropped neuron stays silent for the whole sample."""

import torch


class Dropout(torch.nn.Module):
    """Drop each neuron with probability `p` for the whole sample and scale the others by 1/(1-p).

    Parameters
    ----------
    p : float
        Probability with which a neuron is dropped, 0 <= p < 1.
    inplace : bool
        Accepted for compatibility with lava-dl, without effect: spikes are never changed in place.

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
        """Whether neurons are dropped: in training mode, with p > 0."""
        return self.training and self.p > 0

    @property
    def value(self) -> float:
        """Value of a spike after dropout: 1/(1-p) while active, else 1."""
        return 1.0 / (1.0 - self.p) if self.active else 1.0

    def draw(self, batch: int, channels: int, device: torch.device) -> torch.Tensor | None:
        """Draw a mask, uint8 [B, C], that is 0 for dropped neurons; return None if dropout is not active."""
        if not self.active:
            return None
        return (torch.rand(batch, channels, device=device) >= self.p).view(torch.uint8)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Apply dropout to spikes [B, C, ..., T]; each neuron (all axes but the last) is drawn independently."""
        if not self.active:
            return spikes
        kept = torch.rand(spikes.shape[:-1], device=spikes.device) >= self.p
        return spikes * (kept.to(spikes.dtype) * self.value)[..., None]

    def extra_repr(self) -> str:
        return f"p={self.p}"
