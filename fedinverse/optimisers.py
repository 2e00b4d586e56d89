"""PyTorch's SGD and Adam for processes that compile nothing: the same steps, without importing the compiler.

The first optimiser of a process has PyTorch import its compiler, a second of work, so that compiled programs step over
some of its methods. ``inspect.unwrap`` gives those methods as they were written, before that was put around them; a
version of PyTorch that puts nothing around them is left as it is.
"""

from inspect import unwrap

import torch
from torch import Tensor


class SGD(torch.optim.SGD):
    """``torch.optim.SGD``, bit for bit."""

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(torch.optim.Adam):
    """``torch.optim.Adam``, bit for bit."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down ``loss``, a scalar; gradients of steps before are dropped first."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
