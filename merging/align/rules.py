"""Which layers, functions and methods a network's channels can be followed through."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Modules, functions and methods that treat all channels in the same way and keep their order; those that pool take the
# axes after the second one for places.
PASSING_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish,
    nn.Hardsigmoid, nn.Softplus, nn.Identity, nn.Dropout,
)  # fmt: skip
POOLING_MODULES = (
    nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
PASSING_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.dropout, torch.relu,
    torch.tanh, torch.sigmoid, torch.abs, operator.neg,
)  # fmt: skip
POOLING_FUNCTIONS = (
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.pad,
)  # fmt: skip
PASSING_METHODS = ("relu", "relu_", "tanh", "sigmoid", "contiguous", "float", "clone", "detach")
JOINING = (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.sub, torch.mul)
JOINING_METHODS = ("add", "add_", "sub", "sub_", "mul", "mul_")
FLATTENING = ("flatten", "view", "reshape")
REDUCING = ("mean", "sum", "amax")
