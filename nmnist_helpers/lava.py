"""lava-dl's names and their counterparts here: one table for error messages, documentation and tests.

``python -m nmnist_helpers lava`` prints it.
"""

from typing import NamedTuple


class Name(NamedTuple):
    """One name of lava-dl's SLAYER.

    parameters : those of lava-dl, in order, None for what is not called;
    status : 'works', 'differs' (on purpose) or 'out' (of scope);
    note : how and why it differs, or what to use instead.
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
_OTHER_NEURON = "CUBA neurons are the one model here: nmnist_helpers.neuron.cuba"

#: Name below ``lava.lib.dl.slayer`` -> what became of it.
NAMES = {
    "block.cuba.Dense": Name(_DENSE, "works"),
    "block.cuba.Conv": Name(_CONV, "works"),
    "block.cuba.Pool": Name(_POOL, "works"),
    "block.cuba.Flatten": Name("count_log", "works"),
    "block.cuba.Input": Name(
        None, "out", "spikes as the first block's input; nmnist_helpers.netx runs files that have one"
    ),
    "block.cuba.Affine": Name(None, "out", "nmnist_helpers.synapse.Dense with neuron.dynamics gives the voltage"),
    "block.cuba.Average": Name(None, "out", "output.unflatten(1, (groups, -1)).mean(2)"),
    "block.cuba.KWTA": Name(None, "out", f"{_DENSE_HERE}, without competition"),
    "block.cuba.Recurrent": Name(None, "out", f"{_DENSE_HERE}, without recurrence"),
    "block.cuba.TimeDecimation": Name(None, "out", "torch.nn.functional.avg_pool1d over time"),
    "block.cuba.ConvT": Name(None, "out", "nmnist_helpers.block.cuba.Conv"),
    "block.cuba.Unpool": Name(None, "out", "torch.repeat_interleave over height and width"),
    **{
        f"{room}.{model}": Name(None, "out", _OTHER_NEURON)
        for room in ("block", "neuron")
        for model in ("alif", "rf", "rf_iz", "adrf", "adrf_iz", "sigma_delta")
    },
    "neuron.cuba.Neuron": Name(
        _NEURON,
        "differs",
        "graded_spike is False; a range of decays or a norm needs num_neurons at once, which blocks pass on; at the"
        " threshold itself no spike and no reset; what an optimiser moves is the decay x4, read and saved x4096",
    ),
    "neuron.cuba.Neuron.dynamics": Name("input", "differs", "the argument is called z"),
    "neuron.cuba.Neuron.spike": Name("voltage", "works"),
    "neuron.cuba.Neuron.quantize_8bit": Name("weight descale", "works"),
    "neuron.Dropout": Name("p inplace", "works"),
    "neuron.norm.MeanOnlyBatchNorm": Name("num_features momentum pre_hook_fx", "differs", "num_features is needed"),
    "neuron.norm.WgtScaleBatchNorm": Name(
        None, "out", "nmnist_helpers.neuron.norm.MeanOnlyBatchNorm: netx never applies the scale that this one exports"
    ),
    "neuron.dynamics": Name(None, "out", "nmnist_helpers.neuron.cuba.Neuron.dynamics"),
    "synapse.Dense": Name("in_neurons out_neurons weight_scale weight_norm pre_hook_fx", "works"),
    "synapse.Conv": Name(
        "in_features out_features kernel_size stride padding dilation groups weight_scale weight_norm pre_hook_fx",
        "works",
    ),
    "synapse.Pool": Name("kernel_size stride padding dilation weight_scale weight_norm pre_hook_fx", "works"),
    "synapse.ConvTranspose": Name(None, "out", "nmnist_helpers.synapse.Conv"),
    "synapse.Unpool": Name(None, "out", "torch.repeat_interleave over height and width"),
    "synapse.complex": Name(None, "out", "nmnist_helpers.synapse.Dense: weights are real"),
    "axon.delay": Name("input delay_val sampling_time", "works"),
    "axon.Delay": Name(
        "sampling_time max_delay grad_scale",
        "differs",
        "num_features comes first and may be left out; loaded delays are never drawn again by the first input",
    ),
    "axon.Delta": Name(None, "out", "nmnist_helpers.axon.Delay: spikes here are 0 or 1, not changes"),
    "dendrite.Sigma": Name("persistent_state", "differs", "every call starts from zero: there is no persistent_state"),
    "loss.SpikeTime": Name("time_constant length filter_order reduction", "works"),
    "loss.SpikeRate": Name("true_rate false_rate moving_window reduction", "works"),
    "loss.SpikeMax": Name(
        "moving_window mode reduction", "differs", "finite where the true class is silent; unknown modes are refused"
    ),
    "loss.SpikeMoid": Name(None, "out", "nmnist_helpers.loss.SpikeRate"),
    "loss.SparsityEnforcer": Name(None, "out", "count_log=True in the blocks, and Assistant(lam=...)"),
    "classifier.Rate": Name("", "works"),
    "classifier.Rate.predict": Name("spike", "works"),
    "classifier.Rate.confidence": Name("spike mode eps", "works"),
    "classifier.MovingWindow": Name("time_window mode eps", "differs", "calling it returns the prediction"),
    "utils.Assistant": Name("net error optimizer stats classifier count_log lam", "works"),
    "utils.Assistant.train": Name("input target", "works"),
    "utils.Assistant.test": Name("input target", "works"),
    "utils.Assistant.valid": Name("input target", "works"),
    "utils.Assistant.reduce_lr": Name("factor", "works"),
    "utils.LearningStat": Name("", "works"),
    "utils.LearningStats": Name("loss_str loss_unit accuracy_str accuracy_unit", "works"),
    "utils.LearningStats.update": Name("", "works"),
    "utils.LearningStats.print": Name("epoch iter time_elapsed header dataloader", "works"),
    "utils.LearningStats.plot": Name(
        "figures figsize path", "differs", "without figures, loss and accuracy stand side by side in one"
    ),
    "utils.LearningStats.save": Name("path", "differs", "path is a folder, not the beginning of a name"),
    "utils.LearningStats.load": Name("path", "differs", "it loads"),
    "utils.quantize": Name("input step mode", "works"),
    "utils.QUANTIZE_MODE": Name(None, "works"),
    "utils.quantize_hook_fx": Name("x scale num_bits descale", "works"),
    "utils.event_rate": Name("x", "works"),
    "utils.time.shift": Name("input shift_val sampling_time", "works"),
    "utils.time.replicate": Name("input num_steps", "works"),
    "utils.filter": Name(None, "out", "nmnist_helpers.loss.SpikeTime(...).filter, or torch.nn.functional.conv1d"),
    "utils.diagonal_mask": Name(None, "out", "torch.ones(n, n).tril(k).triu(-k)"),
    "utils.dotdict": Name(None, "out", "types.SimpleNamespace"),
    "utils.staticproperty": Name(None, "out", "an attribute of the class"),
    "io.Event": Name("x_event y_event c_event t_event payload", "works"),
    "io.tensor_to_event": Name("spike_tensor sampling_time", "works"),
    "io.read_2d_spikes": Name("filename", "works"),
    "io.read_1d_spikes": Name("filename", "works"),
    "io.read_np_spikes": Name("filename fmt time_unit", "works"),
    "io.encode_2d_spikes": Name("filename td_event", "works"),
    "io.encode_1d_spikes": Name("filename td_event", "works"),
    "io.encode_np_spikes": Name("filename td_event fmt time_unit", "works"),
    "auto": Name(None, "out", "nmnist_helpers.Network.from_blocks"),
    "spike": Name(None, "out", "nmnist_helpers.neuron.cuba.Neuron.spike"),
    "obd": Name(None, "out", "object detection is another job: lava-dl itself"),
    "object_detection": Name(None, "out", "object detection is another job: lava-dl itself"),
    "jitconfig": Name(None, "out", "NMNIST_BACKEND chooses the kernels"),
}


def absent(module: str):
    """Make the ``__getattr__`` of a module: a name of lava-dl that stays out says so, and what to use."""
    room = module.partition(".")[2]

    def __getattr__(name: str):
        found = NAMES.get(f"{room}.{name}" if room else name)
        if found is not None and found.status == "out":
            raise AttributeError(f"module {module!r} has no {name!r}: lava-dl's is out of scope; use {found.note}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


def table() -> str:
    """Write the table in Markdown: lava-dl's name, whether it works here, and what is different."""
    words = {"works": "works", "differs": "differs on purpose", "out": "out of scope"}
    rows = ["| lava-dl | here | |", "|---|---|---|"]
    for name, (_, status, note) in NAMES.items():
        note = f"use {note}" if status == "out" else note
        rows.append(f"| `slayer.{name}` | {words[status]} | {note} |")
    return "\n".join(rows)


def main(options: list[str] | None = None) -> None:
    """Print the table."""
    import argparse

    argparse.ArgumentParser(prog="python -m nmnist_helpers lava", description=main.__doc__).parse_args(options)
    print(table())
