"""Recordings as events: a single one (`Event`), many in flat arrays (`PackedEvents`), and their files (.bin, .npy)."""

from .event import Event, tensor_to_event
from .files import (
    decode_2d,
    encode_1d_spikes,
    encode_2d,
    encode_2d_spikes,
    encode_np_spikes,
    read_1d_spikes,
    read_2d_spikes,
    read_np_spikes,
)
from .packed import EVENT_ARRAYS, RECORDING_ARRAYS, PackedEvents

__all__ = [
    "EVENT_ARRAYS",
    "RECORDING_ARRAYS",
    "Event",
    "PackedEvents",
    "decode_2d",
    "encode_1d_spikes",
    "encode_2d",
    "encode_2d_spikes",
    "encode_np_spikes",
    "read_1d_spikes",
    "read_2d_spikes",
    "read_np_spikes",
    "tensor_to_event",
]
