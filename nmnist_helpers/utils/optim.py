"""Parameter groups for optimisers with weight decay, which must not shrink the neurons' decays."""

import torch


def parameter_groups(net: torch.nn.Module, lr: float) -> list[dict]:
    """Parameter groups for an optimiser: the neurons' decays apart, without weight decay, which would pull them to 0.

    Parameters
    ----------
    net : torch.nn.Module
        Any network. A module may list the names of parameters that weight decay spares as ``spared``.
    lr : float
        Step size of all parameters: neurons store their decays in units that the step of weights suits.

    Returns
    -------
    list of dict
        The group of the decays (if there are any), then that of all other parameters.

    Notes
    -----
    Without weight decay ``net.parameters()`` does as well.

    Examples
    --------
    >>> optimizer = torch.optim.AdamW(parameter_groups(net, 0.001), weight_decay=0.01)
    """
    spared = {id(getattr(module, name)) for module in net.modules() for name in getattr(module, "spared", ())}
    decays = [parameter for parameter in net.parameters() if id(parameter) in spared]
    others = [parameter for parameter in net.parameters() if id(parameter) not in spared]
    groups = [{"params": decays, "lr": lr, "weight_decay": 0.0}, {"params": others, "lr": lr}]
    return [group for group in groups if group["params"]]
