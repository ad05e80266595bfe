"""Adam without a compiler that nobody uses."""

import inspect

import torch


class Adam(torch.optim.Adam):
    """PyTorch's Adam, without its preparations for `torch.compile`.

    What it computes is the same. But each of these methods would load that compiler, which takes
    one to two seconds of every start and 70 MB.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
