"""Adam without loading PyTorch's compiler."""

import inspect

import torch


class Adam(torch.optim.Adam):
    """PyTorch's Adam without the decorators of its methods.

    The numbers are the same. The decorators load the compiler of `torch.compile`, which this
    project does not use; it would take one to two seconds of every start, and 70 MB.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
