"""The number of threads changes no number."""

import numba
import pytest
import torch
from support.neurons import sample

from nmnist_helpers import Network
from nmnist_helpers.loss import SpikeRate


def trained(threads: int, steps: int = 3) -> list[torch.Tensor]:
    """Outputs and weights of some steps of training, computed by so many threads."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        net = Network((130, 70), inputs=200, outputs=10, neuron_params={"threshold": 0.3})
        optimizer = torch.optim.Adam(net.parameters(), 0.01, fused=True)
        error = SpikeRate(0.2, 0.03, reduction="sum")
        spikes, label = sample((8, 200, 60)), torch.arange(8)
        outputs = []
        for _ in range(steps):
            outputs.append(net(spikes))
            optimizer.zero_grad()
            error(outputs[-1], label).backward()
            optimizer.step()
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    return [*outputs, *net.parameters()]


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread is all there is")
def test_one_thread_and_two_train_the_same_network():
    one, two = trained(1), trained(2)
    assert one[0].any()
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
