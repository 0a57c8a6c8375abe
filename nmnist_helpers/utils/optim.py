"""Parameter groups for optimisers with weight decay, which must not shrink decays and delays."""

import torch


def parameter_groups(net: torch.nn.Module, lr: float) -> list[dict]:
    """Return parameter groups that exempt decays and delays from weight decay, which would pull them to 0.

    Parameters
    ----------
    net : torch.nn.Module
        Any network. A module can list the names of parameters to exempt in an attribute ``spared``.
    lr : float
        Step size of all parameters. Neurons store their decays in units for which the step size of weights is suitable.

    Returns
    -------
    list of dict
        The group of the decays and delays (if there are any), then the group of all other parameters.

    Notes
    -----
    An optimiser without weight decay can take ``net.parameters()`` instead.

    Examples
    --------
    >>> optimizer = torch.optim.AdamW(parameter_groups(net, 0.001), weight_decay=0.01)
    """
    spared = {id(getattr(module, name)) for module in net.modules() for name in getattr(module, "spared", ())}
    exempt = [parameter for parameter in net.parameters() if id(parameter) in spared]
    others = [parameter for parameter in net.parameters() if id(parameter) not in spared]
    groups = [{"params": exempt, "lr": lr, "weight_decay": 0.0}, {"params": others, "lr": lr}]
    return [group for group in groups if group["params"]]
