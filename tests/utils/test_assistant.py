"""Test the assistant against counts and steps that the tests make themselves."""

import itertools
import math

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from nmnist_helpers.classifier import MovingWindow, Rate  # noqa: E402
from nmnist_helpers.spikes import Spikes  # noqa: E402
from nmnist_helpers.utils import Assistant, LearningStats  # noqa: E402

PARTS = ("training", "testing", "validation")
NUMBER = r"[ \d]{5}\.\d{5}"


class SmallNetwork(torch.nn.Module):
    """A linear network from [B, 4, T] to [B, 3, T] that records its inputs and modes; `extra` is returned as well."""

    def __init__(self, extra=()):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3, bias=False)
        self.drop = torch.nn.Dropout(0.5)
        self.extra, self.inputs, self.modes = extra, [], []

    def forward(self, x):
        self.inputs.append(x)
        self.modes.append((self.training, torch.is_grad_enabled()))
        x = x.dense() if isinstance(x, Spikes) else x
        out = self.linear(self.drop(x).transpose(1, 2)).transpose(1, 2)
        return (out, *self.extra) if self.extra else out


def squared_error(output, label):
    return ((output.mean(-1) - torch.nn.functional.one_hot(label, 3)) ** 2).mean()


def batch(size=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(size, 4, 7, generator=g) < 0.4).float(), torch.randint(0, 3, (size,), generator=g)


def make_assistant(net, lr=0.1, **options):
    return Assistant(net, squared_error, torch.optim.SGD(net.parameters(), lr=lr), **options)


def test_train_takes_the_step_that_autograd_gives():
    torch.manual_seed(0)
    net = SmallNetwork()
    net.drop.p = 0.0
    x, label = batch()
    w = net.linear.weight.detach().clone().requires_grad_()
    loss = squared_error(torch.einsum("oc,bct->bot", w, x), label)
    loss.backward()
    net.linear.weight.grad = torch.full_like(w, 1e6)  # this old gradient must have no effect
    stats = LearningStats()
    output = make_assistant(net, stats=stats, classifier=Rate.predict).train(x, label)
    torch.testing.assert_close(net.linear.weight.detach(), (w - 0.1 * w.grad).detach())
    torch.testing.assert_close(output.detach(), torch.einsum("oc,bct->bot", w, x).detach())
    assert stats.training.loss == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize(("call", "part"), [("train", "training"), ("test", "testing"), ("valid", "validation")])
def test_each_method_counts_in_its_own_part(call, part):
    torch.manual_seed(1)
    net, stats = SmallNetwork(), LearningStats()
    net.drop.p = 0.0
    assistant = make_assistant(net, lr=0.0, stats=stats, classifier=Rate.predict)
    losses, sizes, correct = [], [], 0
    for seed, size in enumerate((8, 8, 3)):
        x, label = batch(size, seed)
        getattr(assistant, call)(x, label)
        out = np.einsum("oc,bct->bot", net.linear.weight.detach().numpy(), x.numpy())
        rate = out.mean(-1)
        losses.append(((rate - np.eye(3)[label]) ** 2).mean())
        sizes.append(size)
        correct += sum(int(np.argmax(row)) == int(digit) for row, digit in zip(rate, label, strict=True))
    stat = getattr(stats, part)
    assert stat.num_samples == 19
    assert stat.loss == pytest.approx(np.dot(losses, sizes) / 19, rel=1e-5)
    assert stat.correct_samples == correct
    assert all(getattr(stats, other).num_samples == 0 for other in PARTS if other != part)


def test_only_train_uses_training_mode_and_gradients():
    net = SmallNetwork()
    assistant = make_assistant(net)
    x, label = batch()
    weight = net.linear.weight.detach().clone()
    for call, mode in (("test", (False, False)), ("valid", (False, False))):
        output = getattr(assistant, call)(x, label)
        assert net.modes[-1] == mode
        assert not output.requires_grad
    assert torch.equal(net.linear.weight, weight)
    assert net.linear.weight.grad is None
    assistant.train(x, label)
    assert net.modes[-1] == (True, True)
    assert not torch.equal(net.linear.weight, weight)
    assert torch.is_grad_enabled()


def test_spikes_reach_the_network_unchanged():
    net = SmallNetwork()
    x, label = batch()
    spikes = Spikes.from_dense(x)
    from_events = make_assistant(net).test(spikes, label)
    assert net.inputs[-1] is spikes
    assert torch.equal(from_events, make_assistant(net).test(x, label))


def test_stats_and_classifier_are_optional():
    x, label = batch()
    make_assistant(SmallNetwork()).train(x, label)
    make_assistant(SmallNetwork(), classifier=Rate.predict).test(x, label)
    stats = LearningStats()
    make_assistant(SmallNetwork(), stats=stats).test(x, label)
    assert stats.testing.num_samples == 5
    assert stats.testing.accuracy is None


def test_counts_are_returned_and_the_networks_own_loss_is_added():
    x, label = batch()
    stats = LearningStats()
    for count_log, lam in itertools.product((False, True), (None, 3.0)):
        torch.manual_seed(2)
        net = SmallNetwork()
        net.drop.p = 0.0
        w = net.linear.weight
        net.extra = ((w**2).sum(),) * (lam is not None) + ("counts",) * count_log
        start = w.detach().clone()
        assistant = make_assistant(net, count_log=count_log, lam=lam, stats=stats)
        returned = assistant.train(x, label)
        assert (isinstance(returned, tuple) and returned[1] == "counts") is count_log
        expected = start.clone().requires_grad_()
        loss = squared_error(torch.einsum("oc,bct->bot", expected, x), label)
        (loss + (0 if lam is None else lam * (expected**2).sum())).backward()
        torch.testing.assert_close(w.detach(), (start - 0.1 * expected.grad).detach())
        assert stats.training.loss == pytest.approx(loss.item(), rel=1e-6)  # the network's own loss is not counted
        stats.reset()
        net.extra = (torch.ones(()),) * (lam is not None) + ("counts",) * count_log
        tested = assistant.test(x, label)
        assert (isinstance(tested, tuple) and tested[1] == "counts") is count_log
        stats.reset()


def test_a_network_that_returns_too_few_values_raises_an_error():
    x, label = batch()
    with pytest.raises(ValueError, match="expected 2 values from the network, found 1"):
        make_assistant(SmallNetwork(), count_log=True).train(x, label)
    with pytest.raises(ValueError, match="expected 3 values from the network, found 2"):
        make_assistant(SmallNetwork(extra=("c",)), count_log=True, lam=0.1).test(x, label)


def test_a_loss_that_is_not_a_scalar_raises_an_error():
    net = SmallNetwork()
    assistant = Assistant(net, lambda o, t: o.mean(-1), torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"one number, found shape \[5, 3\]"):
        assistant.train(*batch())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("call", ["train", "test", "valid"])
def test_a_loss_that_is_not_finite_stops_before_the_step(bad, call):
    net, stats = SmallNetwork(), LearningStats()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    assistant = Assistant(net, lambda o, t: o.sum() * 0 + bad, optimizer, stats, classifier=Rate.predict)
    before = net.linear.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="expected a finite loss, found (nan|-?inf)"):
        getattr(assistant, call)(*batch())
    assert torch.equal(net.linear.weight, before)
    assert len(optimizer.state) == 0
    assert all(getattr(stats, part).num_samples == 0 for part in PARTS)


def test_a_networks_own_loss_that_is_not_finite_stops_before_the_step():
    net = SmallNetwork(extra=(torch.tensor(math.nan),))
    before = net.linear.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="expected a finite loss, found nan"):
        make_assistant(net, lam=1.0).train(*batch())
    assert torch.equal(net.linear.weight, before)


def test_training_needs_an_optimiser_and_testing_does_not():
    assistant = Assistant(SmallNetwork(), squared_error, None)
    assistant.test(*batch())
    with pytest.raises(ValueError, match="expected an optimizer, found None"):
        assistant.train(*batch())


def test_input_and_label_are_moved_to_the_networks_device():
    """The meta device, which computes only shapes, stands in for a GPU."""
    net = SmallNetwork().to("meta")
    inputs = {}

    def error(output, label):
        inputs.update(output=output.device.type, label=label.device.type)
        raise StopIteration

    with pytest.raises(StopIteration):
        Assistant(net, error, None).test(*batch())
    assert net.inputs[-1].device.type == "meta"
    assert inputs == {"output": "meta", "label": "meta"}


def test_reduce_lr_divides_the_step_size_of_every_group(capsys):
    net = SmallNetwork()
    optimizer = torch.optim.SGD([{"params": net.linear.weight, "lr": 0.3}, {"params": [torch.nn.Parameter(torch.ones(1))]}], lr=0.02)  # fmt: skip  # noqa: E501
    assistant = Assistant(net, squared_error, optimizer)
    assistant.reduce_lr(4)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.075, 0.005])
    assert capsys.readouterr().out == "step size divided by 4: now 0.075, 0.005\n"
    assistant.reduce_lr()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.0225, 0.0015])
    for factor in (0, -2, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive factor"):
            assistant.reduce_lr(factor)


def test_targets_must_have_the_shape_of_the_answers():
    outputs = (torch.rand(4, 3, 20) < 0.5).float()
    stats = LearningStats()
    assistant = Assistant(torch.nn.Identity(), lambda out, _: out.mean(), None, stats, classifier=Rate.predict)
    with pytest.raises(ValueError, match=r"shape that the classifier returns, \[4\], found \[4, 1\]"):
        assistant.test(outputs, torch.zeros(4, 1))


def test_answers_over_time_count_as_shares_of_a_sample():
    outputs = torch.zeros(1, 2, 4)
    outputs[0, 1, 2] = 1
    stats = LearningStats()
    window = MovingWindow(2)
    Assistant(torch.nn.Identity(), lambda out, _: out.mean(), None, stats, classifier=window).test(
        outputs, torch.ones(1, 4, dtype=torch.int64)
    )
    assert stats.testing.accuracy == 0.5  # of four steps, the last two


def test_counts_are_exact_with_a_loss_of_16_bits():
    stats = LearningStats()
    label = torch.zeros(257, dtype=torch.int64)  # bfloat16 has no 257
    assistant = Assistant(torch.nn.Identity(), lambda out, _: out.bfloat16().sum(), None, stats, classifier=torch.round)
    assistant.test(label.float(), label)
    assert stats.testing.correct_samples == 257


def test_a_classifier_receives_an_output_without_gradients():
    received = []

    def classifier(output):
        received.append(output.requires_grad)
        return Rate.predict(output)

    make_assistant(SmallNetwork(), stats=LearningStats(), classifier=classifier).train(*batch())
    assert received == [False]


def test_targets_and_losses_are_tensors():
    net = torch.nn.Linear(3, 2)
    with pytest.raises(TypeError, match="expected a tensor of targets, found list"):
        Assistant(net, torch.nn.functional.mse_loss, None).test(torch.ones(2, 3), [0, 1])
    with pytest.raises(TypeError, match="expected an error that returns a tensor, found float"):
        Assistant(net, lambda output, target: 0.5, None).test(torch.ones(2, 3), torch.ones(2, 2))


def test_an_optimiser_of_another_network_is_refused():
    with pytest.raises(ValueError, match="expected an optimizer of the network's parameters, found one of others"):
        Assistant(SmallNetwork(), squared_error, torch.optim.Adam(SmallNetwork().parameters()))


def test_the_device_of_the_inputs_can_be_set():
    assistant = Assistant(SmallNetwork(), squared_error, None)
    assistant.device = "meta"
    assert assistant.device == torch.device("meta")


def test_a_class_is_no_classifier():
    with pytest.raises(TypeError, match=r"Assistant: expected a function or Rate\(\), found the class Rate"):
        make_assistant(SmallNetwork(), classifier=Rate)


def test_an_input_that_is_no_tensor_is_named():
    input, label = batch()
    with pytest.raises(TypeError, match="Assistant: expected a tensor or Spikes as input, found ndarray"):
        make_assistant(SmallNetwork()).train(input.numpy(), label)


@pytest.mark.parametrize("factor", ["2", None, 0])
def test_the_divisor_of_the_step_size_is_a_positive_number(factor):
    with pytest.raises(ValueError, match="reduce_lr: expected a positive factor, found"):
        make_assistant(SmallNetwork()).reduce_lr(factor)
