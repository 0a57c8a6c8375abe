"""Step sizes that fit their parameters: decays are stored x4096 and need larger steps than weights.

A decay of 0.25 is the parameter value 1024. Adam moves every parameter by about its step size, whatever the
gradient; at the 0.001 that suits weights, a decay would move by a thousandth of 1/4096 a step and never learn.
Decays therefore get a parameter group of their own, with a step `DECAY_LR_SCALE` times larger.
"""

from collections.abc import Iterable

import torch

#: Names under which neurons keep their decays, in units of 1/4096.
DECAY_NAMES = ("current_decay", "voltage_decay")

#: Step size of decays relative to that of weights: 4096 brings them to the scale of weights, and the quarter
#: keeps them slower than the weights that rely on them.
DECAY_LR_SCALE = 4096 * 0.25


def _decays(net: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Decays of `net` that learn."""
    named = net.named_parameters()
    return [p for name, p in named if name.rpartition(".")[2] in DECAY_NAMES and p.requires_grad]


def _divide(parameters: Iterable[torch.nn.Parameter], chosen: set[int]) -> tuple[list, list]:
    """Those not among the `chosen` ids, and those among them, each in order."""
    parameters = list(parameters)
    return [p for p in parameters if id(p) not in chosen], [p for p in parameters if id(p) in chosen]


def _check_scale(decay_lr_scale: float) -> None:
    if not 0 < decay_lr_scale < float("inf"):
        raise ValueError(f"expected a positive decay_lr_scale, found {decay_lr_scale}")


def parameter_groups(net: torch.nn.Module, lr: float, decay_lr_scale: float = DECAY_LR_SCALE) -> list[dict]:
    """Parameter groups for an optimiser: weights and delays with step `lr`, decays with a larger one.

    Parameters
    ----------
    net : torch.nn.Module
        Any network; parameters named ``current_decay`` and ``voltage_decay`` that learn count as decays.
    lr : float
        Step size of all other parameters.
    decay_lr_scale : float
        Step size of the decays, as a multiple of `lr`.

    Returns
    -------
    list of dict
        One group, or two where decays learn. Decays are spared weight decay, which would pull them to 0.

    Raises
    ------
    ValueError
        If `decay_lr_scale` is not positive.

    Examples
    --------
    >>> optimizer = torch.optim.Adam(parameter_groups(net, 0.001))
    """
    _check_scale(decay_lr_scale)
    others, decays = _divide(net.parameters(), {id(p) for p in _decays(net)})
    groups = [{"params": others, "lr": lr}] if others else []
    if decays:
        groups.append({"params": decays, "lr": lr * decay_lr_scale, "weight_decay": 0.0})
    return groups


def scale_decay_groups(
    optimizer: torch.optim.Optimizer, net: torch.nn.Module, decay_lr_scale: float = DECAY_LR_SCALE
) -> None:
    """Move the decays of an optimiser into groups of their own, with a larger step; changes `optimizer`.

    A group that holds nothing but decays is left as it is, so that a second call, or one after
    `parameter_groups`, changes nothing, and so that your own choice stands. The state of the optimiser (its
    moments) is kept.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Made with ``net.parameters()`` or with groups of your own.
    net : torch.nn.Module
        As in `parameter_groups`.
    decay_lr_scale : float
        Step size of the decays, as a multiple of that of the group they are taken from.

    Raises
    ------
    ValueError
        If a group needs to be divided while a scheduler follows the optimiser: schedulers count the groups
        when they are made. Or if `decay_lr_scale` is not positive.
    """
    _check_scale(decay_lr_scale)
    chosen = {id(p) for p in _decays(net)}
    divided = [(group, *_divide(group["params"], chosen)) for group in optimizer.param_groups]
    divided = [(group, others, decays) for group, others, decays in divided if others and decays]
    if divided and getattr(optimizer.step, "_wrapped_by_lr_sched", False):
        raise ValueError(
            "the decays need a parameter group of their own, but a scheduler already follows this optimizer:"
            " make the optimizer with parameter_groups(net, lr), or the scheduler after the Assistant"
        )
    for group, others, decays in divided:
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for key in ("lr", "initial_lr"):  # initial_lr: a scheduler made later and told its epoch starts there
            if key in options:
                options[key] = options[key] * decay_lr_scale
        if "weight_decay" in options:
            options["weight_decay"] = 0.0
        if "param_names" in group:  # of an optimiser made with named_parameters()
            names = dict(zip(map(id, group["params"]), group["param_names"], strict=True))
            group["param_names"] = [names[id(p)] for p in others]
            decays = [(names[id(p)], p) for p in decays]
        group["params"] = others
        optimizer.add_param_group({"params": decays, **options})


__all__ = ["DECAY_LR_SCALE", "DECAY_NAMES", "parameter_groups", "scale_decay_groups"]
