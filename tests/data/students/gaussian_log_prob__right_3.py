# STYLE: matrix-vector product with the precision, constants pulled out of the sum
import torch


def gaussian_log_prob(mu, ls, a):
    D = ls.numel()
    diff = a - mu
    quad = diff.square() @ torch.exp(-2 * ls)
    const = ls.sum() + 0.5 * D * torch.log(torch.tensor(2 * torch.pi))
    return quad.mul(-0.5).sub(const)
