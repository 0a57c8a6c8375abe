"""lava-dl's names and their counterparts here: a single table for error messages, documentation and tests.

``python -m nmnist_helpers lava`` prints it.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Name(NamedTuple):
    """One name of lava-dl's SLAYER.

    parameters : lava-dl's parameter names in order; None if the object is not callable or out of scope;
    status : 'works', 'differs' (on purpose) or 'out' (of scope);
    note : how it differs; for names out of scope, what to use instead.
    """

    parameters: str | None
    status: str
    note: str = ""


_DENSE = "neuron_params in_neurons out_neurons weight_scale weight_norm pre_hook_fx delay delay_shift mask count_log"
_CONV = (
    "neuron_params in_features out_features kernel_size stride padding dilation groups weight_scale weight_norm"
    " pre_hook_fx delay delay_shift count_log"
)
_POOL = (
    "neuron_params kernel_size stride padding dilation weight_scale weight_norm pre_hook_fx delay delay_shift count_log"
)
_NEURON = (
    "threshold current_decay voltage_decay tau_grad scale_grad scale norm dropout shared_param persistent_state"
    " requires_grad graded_spike"
)
_DENSE_HERE = "nmnist_helpers.block.cuba.Dense"
_ALONE = ", which an export refuses"
_OTHER_NEURON = "use nmnist_helpers.neuron.cuba, the one neuron model here"
_UNPOOL = "use torch.repeat_interleave over height and width"
_DETECTION = "use lava-dl itself: this package detects no objects"

#: Name within ``lava.lib.dl.slayer`` (netx and decolle: within ``lava.lib.dl``) -> its counterpart here.
NAMES = {
    "block.cuba.Dense": Name(
        _DENSE,
        "works",
        "a block with delay_shift=False cannot be exported: the file has no place for it; with a mask, synapse.weight"
        " keeps the weights that the mask removes, but synapse.quantised_weight() has zeros there; with"
        " persistent_state, delayed spikes arrive in the next call, unless neuron.reset_state() is called, the states"
        " are set to 0, or delay_buffer to None",
    ),
    "block.cuba.Conv": Name(
        _CONV, "works", "as Dense, but without a mask; lava-dl's netx ignores its delays; an export warns about this"
    ),
    "block.cuba.Pool": Name(
        _POOL,
        "works",
        "as Dense, but without a mask; its weight never learns (lava-dl's does with weight_norm); lava-dl's netx cannot"
        " build it; an export warns about this",
    ),
    "block.cuba.Flatten": Name("count_log", "works"),
    "block.cuba.Input": Name(
        None,
        "out",
        "use nmnist_helpers.axon.delay(neuron(neuron.quantize_8bit(x)), 1) with a neuron ="
        " nmnist_helpers.neuron.cuba.Neuron(**neuron_params) to encode real numbers; spikes can be the input of the"
        " first block; nmnist_helpers.netx runs files that have an input layer",
    ),
    "block.cuba.Affine": Name(
        None,
        "out",
        "use neuron.dynamics(synapse(x))[1], the voltage of a neuron that never fires: neuron ="
        " nmnist_helpers.neuron.cuba.Neuron(**dict(neuron_params, threshold=131072)), synapse ="
        " nmnist_helpers.synapse.Dense(in_neurons, out_neurons, pre_hook_fx=neuron.quantize_8bit); with dynamics=False,"
        " use synapse(x)",
    ),
    "block.cuba.Average": Name(None, "out", "use output.unflatten(1, (groups, -1)).mean(2)"),
    "block.cuba.KWTA": Name(None, "out", f"use {_DENSE_HERE}, which has no competition between neurons"),
    "block.cuba.Recurrent": Name(None, "out", f"use {_DENSE_HERE}, which has no recurrent connections"),
    "block.cuba.TimeDecimation": Name(
        None, "out", "use torch.nn.functional.avg_pool1d over time (it leaves out a remainder)"
    ),
    "block.cuba.ConvT": Name(None, "out", f"{_UNPOOL}, then nmnist_helpers.block.cuba.Conv"),
    "block.cuba.Unpool": Name(None, "out", _UNPOOL),
    "block.cuba.AbstractCuba": Name(None, "out", f"use a subclass of {_DENSE_HERE} with a forward of its own{_ALONE}"),
    **{
        f"block.base.Abstract{kind}": Name(
            None, "out", f"use a subclass of nmnist_helpers.block.cuba.{kind} with a forward of its own{_ALONE}"
        )
        for kind in ("Dense", "Conv", "Pool")
    },
    **{
        f"{room}.{model}": Name(None, "out", _OTHER_NEURON)
        for room in ("block", "neuron")
        for model in ("alif", "rf", "rf_iz", "adrf", "adrf_iz", "sigma_delta")
    },
    "neuron.base": Name(
        None, "out", "use a subclass of nmnist_helpers.neuron.cuba.Neuron with its own forward, dynamics or spike"
    ),
    "neuron.cuba.Neuron": Name(
        _NEURON,
        "differs",
        "graded_spike is always False; decays above 1 are an error; a range of decays or a norm needs num_neurons when"
        " the neuron is made (blocks pass it on); a voltage exactly at the threshold gives no spike and no reset;"
        " attributes and files hold the decay times 4096, as lava-dl's do, but the optimiser changes the parameters"
        " scaled_current_decay and scaled_voltage_decay, which hold the decay times 4; norm is called with num_features"
        " if it takes it",
    ),
    "neuron.cuba.Neuron.dynamics": Name("input", "differs", "the argument is called z"),
    "neuron.cuba.Neuron.spike": Name("voltage", "works", "an export refuses a neuron with its own spike or dynamics"),
    "neuron.cuba.Neuron.quantize_8bit": Name("weight descale", "works"),
    "neuron.cuba.neuron_params": Name("device_params scale p_scale", "works"),
    "neuron.Dropout": Name("p inplace", "works"),
    "neuron.norm.MeanOnlyBatchNorm": Name("num_features momentum pre_hook_fx", "differs", "num_features must be given"),
    "neuron.norm.WgtScaleBatchNorm": Name(
        None,
        "out",
        "use nmnist_helpers.neuron.norm.MeanOnlyBatchNorm: netx never applies the scale that lava-dl's layer exports",
    ),
    "neuron.dynamics": Name(None, "out", "use nmnist_helpers.neuron.cuba.Neuron.dynamics"),
    "synapse.Dense": Name(
        "in_neurons out_neurons weight_scale weight_norm pre_hook_fx",
        "works",
        "no synapse is a torch.nn.Conv3d: a loop over modules must look for synapse.Synapse instead; a bias is an"
        " error",
    ),
    "synapse.Conv": Name(
        "in_features out_features kernel_size stride padding dilation groups weight_scale weight_norm pre_hook_fx",
        "works",
    ),
    "synapse.Pool": Name("kernel_size stride padding dilation weight_scale weight_norm pre_hook_fx", "works"),
    "synapse.ConvTranspose": Name(None, "out", f"{_UNPOOL}, then nmnist_helpers.synapse.Conv"),
    "synapse.Unpool": Name(None, "out", _UNPOOL),
    "synapse.layer": Name(
        None,
        "out",
        "use nmnist_helpers.synapse.Dense, nmnist_helpers.synapse.Conv or nmnist_helpers.synapse.Pool, or a subclass of"
        " nmnist_helpers.synapse.Synapse",
    ),
    "synapse.complex": Name(None, "out", "use nmnist_helpers.synapse.Dense: weights here are real numbers"),
    "axon.delay": Name("input delay_val sampling_time", "works"),
    "axon.Delay": Name(
        "sampling_time max_delay grad_scale",
        "differs",
        "the first argument is num_features, which may be left out; the first input does not replace loaded delays by"
        " new ones; with a sampling_time other than 1, the gradient is with respect to ms, and the delays of channels"
        " are divided by it only once (lava-dl: twice); an export refuses a subclass with a forward of its own",
    ),
    "axon.Delta": Name(None, "out", "use nmnist_helpers.axon.Delay: spikes here are 0 or 1, not changes of a value"),
    "dendrite.Sigma": Name(
        "persistent_state", "differs", "every call starts from zero, because there is no persistent_state"
    ),
    "loss.SpikeTime": Name("time_constant length filter_order reduction", "works"),
    "loss.SpikeRate": Name(
        "true_rate false_rate moving_window reduction",
        "works",
        "labels are whole numbers: [B], or [B, T] with a moving window",
    ),
    "loss.SpikeMax": Name(
        "moving_window mode reduction",
        "differs",
        "it is finite if the true class is silent; unknown modes are an error",
    ),
    "loss.SpikeMoid": Name(None, "out", "use nmnist_helpers.loss.SpikeRate"),
    "loss.SparsityEnforcer": Name(
        None, "out", "use a penalty on the mean of the spikes that net(spikes, layers=True) returns"
    ),
    "classifier.Rate": Name("", "works", "rate merges the axes between batch and time: [B, C, H, W, T] gives [B, CHW]"),
    "classifier.Rate.predict": Name("spike", "works"),
    "classifier.Rate.confidence": Name("spike mode eps", "works"),
    "classifier.MovingWindow": Name("time_window mode eps", "differs", "calling the classifier returns the prediction"),
    "utils.Assistant": Name(
        "net error optimizer stats classifier count_log lam",
        "works",
        "the error must return one number; if the classifier answers at every step, the share of right answers counts",
    ),
    "utils.Assistant.train": Name("input target", "works"),
    "utils.Assistant.test": Name("input target", "works"),
    "utils.Assistant.valid": Name("input target", "works"),
    "utils.Assistant.reduce_lr": Name("factor", "works"),
    "utils.LearningStat": Name("", "works", "min_loss and max_accuracy follow from the logs and cannot be set"),
    "utils.LearningStats": Name("loss_str loss_unit accuracy_str accuracy_unit", "works"),
    "utils.LearningStats.update": Name("", "works"),
    "utils.LearningStats.print": Name("epoch iter time_elapsed header dataloader", "works"),
    "utils.LearningStats.plot": Name(
        "figures figsize path",
        "differs",
        "without the argument figures, one figure shows loss and accuracy side by side; path is a picture or a folder,"
        " not the beginning of file names",
    ),
    "utils.LearningStats.save": Name(
        "path",
        "differs",
        "path is a folder, not the beginning of file names; the files always have the columns Train, Valid and Test,"
        " with nan where nothing was counted",
    ),
    "utils.LearningStats.load": Name("path", "differs", "it works: lava-dl's raises an error"),
    "utils.quantize": Name("input step mode", "works"),
    "utils.QUANTIZE_MODE": Name(None, "works"),
    "utils.quantize_hook_fx": Name("x scale num_bits descale", "works"),
    "utils.event_rate": Name("x", "works"),
    "utils.time.shift": Name("input shift_val sampling_time", "works"),
    "utils.time.replicate": Name("input num_steps", "works"),
    "utils.filter": Name(None, "out", "use nmnist_helpers.loss.SpikeTime(...).filter, or torch.nn.functional.conv1d"),
    "utils.int_utils": Name(
        None, "out", "use torch.div(x, 1 << bits, rounding_mode='trunc') instead of right_shift_to_zero(x, bits)"
    ),
    "utils.recurrent": Name(
        None,
        "out",
        "use a loop over time: spikes = neuron(z[..., t : t + 1] + synapse(spikes)) with a neuron that has"
        " persistent_state=True; gradients reach earlier steps only through the spikes that are fed back, not through"
        " the neuron's state",
    ),
    "utils.diagonal_mask": Name(
        None, "out", "use torch.ones(n, n).tril(k).triu(-k) with k = num_diagonals // 2, the diagonals on either side"
    ),
    "utils.dotdict": Name(None, "out", "use types.SimpleNamespace, or a dict where items are read by d['a']"),
    "utils.staticproperty": Name(None, "out", "use an attribute of the class"),
    "io.Event": Name(
        "x_event y_event c_event t_event payload",
        "works",
        "fractional pixels are rounded, not cut off; channels keep their numbers: lava-dl lets the lowest become 0;"
        " with the mode SUM or payloads, all events of a bin are added up (lava-dl keeps one of them); random_shift"
        " delays a short recording, but moves no event out of the tensor",
    ),
    "io.tensor_to_event": Name(
        "spike_tensor sampling_time", "works", "payloads are the tensor's values, so that to_tensor gives it back"
    ),
    "io.read_2d_spikes": Name("filename", "works"),
    "io.read_1d_spikes": Name("filename", "works"),
    "io.read_np_spikes": Name("filename fmt time_unit", "works"),
    "io.encode_2d_spikes": Name("filename td_event", "works", "fractional pixels are an error"),
    "io.encode_1d_spikes": Name("filename td_event", "works", "fractional pixels are an error"),
    "io.encode_np_spikes": Name("filename td_event fmt time_unit", "works"),
    "auto": Name(None, "out", "use nmnist_helpers.Network.from_blocks"),
    "spike": Name(None, "out", "use nmnist_helpers.neuron.cuba.Neuron.spike"),
    "decolle": Name(
        None,
        "out",
        f"use synapse, neuron.dynamics and neuron.spike of each {_DENSE_HERE}: they give the voltages and spikes for"
        " losses of single layers",
    ),
    "obd": Name(None, "out", _DETECTION),
    "object_detection": Name(None, "out", _DETECTION),
    "netx.hdf5": Name(
        None,
        "out",
        "use nmnist_helpers.netx.load(path), which runs the network in the chip's integers; lava's own"
        " netx.hdf5.Network reads the files that are written here",
    ),
    "jitconfig": Name(None, "out", "use the environment variable NMNIST_BACKEND to choose the kernels"),
}


def absent(module: str):
    """Return a module's ``__getattr__``, whose error for lava-dl's names out of scope states what to use instead."""
    room = module.partition(".")[2]

    def __getattr__(name: str):
        found = NAMES.get(f"{room}.{name}" if room else name)
        if found is not None and found.status == "out":
            raise AttributeError(f"module {module!r} has no {name!r}: lava-dl's is out of scope; {found.note}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


def public(module: str):
    """Return a module's ``__dir__``, which lists its public names alone: tab completion then offers no others."""

    def __dir__() -> list[str]:
        names = vars(sys.modules[module])
        return sorted({*names["__all__"], *(name for name in names if name.startswith("__"))})

    return __dir__


def table() -> str:
    """Return the table in Markdown: each name of lava-dl, whether it works here, and how it differs."""
    words = {"works": "works", "differs": "differs on purpose", "out": "out of scope"}
    rows = ["| lava-dl | here | how it differs, or what to use instead |", "|---|---|---|"]
    for name, (_, status, note) in NAMES.items():
        full = name if name.split(".")[0] in ("netx", "decolle") else f"slayer.{name}"
        rows.append(f"| `{full}` | {words[status]} | {note} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Print lava-dl's names and the status of each: it works, it differs on purpose, or it is out of scope."""
    argparse.ArgumentParser(prog="python -m nmnist_helpers lava", description=main.__doc__).parse_args(argv)
    print(table())
