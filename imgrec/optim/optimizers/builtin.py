"""Common optimizers of torch and timm, with their defaults."""

from __future__ import annotations

from typing import Any

import timm.optim
import torch
from torch.optim import Optimizer

from imgrec.optim.optimizers.factory import OptimizerFactory
from imgrec.optim.optimizers.registry import OPTIMIZERS

__all__ = ["OPTIMIZERS"]  # filled by this module

_CLASS: Any = vars(timm.optim)["get_optimizer_class"]  # timm exports it without types


def _register(
    name: str, cls: type[Optimizer], doc: str, group_options: dict[str, Any] | None = None, **defaults: Any
) -> None:
    OPTIMIZERS.register(name)(OptimizerFactory(cls, defaults, doc, group_options))


_register(
    "sgd",
    torch.optim.SGD,
    """Stochastic gradient descent, without momentum unless `momentum` is set.

    Source: Robbins and Monro, A Stochastic Approximation Method, 1951, doi:10.1214/aoms/1177729586.

    Example::

        optimizer: {name: sgd, lr: 0.1}
    """,
)
_register(
    "momentum",
    torch.optim.SGD,
    """Stochastic gradient descent with heavy-ball momentum, 0.9.

    Source: Polyak, Some Methods of Speeding up the Convergence of Iteration Methods, 1964,
    doi:10.1016/0041-5553(64)90137-5.

    Example::

        optimizer: {name: momentum, lr: 0.1}
    """,
    momentum=0.9,
)
_register(
    "nesterov",
    torch.optim.SGD,
    """Stochastic gradient descent with Nesterov momentum, 0.9.

    Source: Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, 2013, ICML.

    Example::

        optimizer: {name: nesterov, lr: 0.1, weight_decay: 5e-4}
    """,
    momentum=0.9,
    nesterov=True,
)
_register(
    "adam",
    torch.optim.Adam,
    """Adam: steps scaled by running moments of the gradient. Weight decay is part of the gradient.

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, arXiv:1412.6980.

    Example::

        optimizer: {name: adam, lr: 0.001}
    """,
)
_register(
    "adamw",
    torch.optim.AdamW,
    """Adam with decoupled weight decay, 0.01 by default.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, arXiv:1711.05101.

    Example::

        optimizer: {name: adamw, lr: 0.001, weight_decay: 0.05}
    """,
)
_register(
    "adagrad",
    torch.optim.Adagrad,
    """Adagrad: steps divided by the root of the sum of squared gradients.

    Source: Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011, JMLR 12.

    Example::

        optimizer: {name: adagrad, lr: 0.01}
    """,
)
_register(
    "rmsprop",
    torch.optim.RMSprop,
    """RMSprop: gradient divided by its running root mean square, without momentum unless `momentum` is set.

    Source: Tieleman and Hinton, Lecture 6.5: RMSprop, 2012, COURSERA: Neural Networks for Machine Learning.

    Example::

        optimizer: {name: rmsprop, lr: 0.001, momentum: 0.9}
    """,
)
_register(
    "adamax",
    torch.optim.Adamax,
    """Adam with the decayed maximum of the gradient instead of its root mean square.

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, arXiv:1412.6980, section 7.

    Example::

        optimizer: {name: adamax, lr: 0.002}
    """,
)
_register(
    "nadam",
    torch.optim.NAdam,
    """Adam with Nesterov momentum. `decoupled_weight_decay: true` decouples weight decay from the gradient.

    Source: Dozat, Incorporating Nesterov Momentum into Adam, 2016, ICLR workshop.

    Example::

        optimizer: {name: nadam, lr: 0.002}
    """,
)
_register(
    "lamb",
    _CLASS("lamb", bind_defaults=False),
    """LAMB: Adam with steps proportional to the norm of the weights of each layer, for very large batches.

    The implementation of timm clips all gradients to a norm of `max_grad_norm`, 1 by default, before the step.

    Source: You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 Minutes, 2020, arXiv:1904.00962.

    Example::

        optimizer: {name: lamb, lr: 0.005, weight_decay: 0.02}
    """,
)
_register(
    "lion",
    _CLASS("lion", bind_defaults=False),
    """Lion: steps along the sign of a momentum. Its learning rate is 3 to 10 times smaller than that of Adam.

    Its weight decay is larger by the same factor.

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, arXiv:2302.06675.

    Example::

        optimizer: {name: lion, lr: 1e-4, weight_decay: 0.1}
    """,
)
_register(
    "muon",
    _CLASS("muon", bind_defaults=False),
    """Muon: orthogonalized momentum for matrices and filters, NAdamW for biases and normalization layers.

    The implementation of timm with the coefficients of the paper (`ns_coefficients: original`). On matrices it equals
    `torch.optim.Muon` with `adjust_lr_fn: match_rms_adamw`, which supports neither filters nor biases. The default of
    timm, `quintic`, is a later set of coefficients that brings singular values closer to 1. Its steps were 5 to 27 %
    longer on random gradients of seven shapes from 64 x 64 to 512 x 4,608. Each filter becomes a row of a matrix. Steps
    have the size of AdamW steps (`adjust_lr_fn`), so learning rates of AdamW are suitable for both. To use NAdamW for a
    layer, for example the output layer, set `groups: [{scope: head, use_fallback: true}]`. If `nesterov` is false, the
    fallback is AdamW.

    Source: Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks, 2024,
    kellerjordan.github.io/posts/muon. Liu et al., Muon is Scalable for LLM Training, 2025, arXiv:2502.16982.

    Example::

        optimizer: {name: muon, lr: 0.002, weight_decay: 0.01}
    """,
    group_options={"use_fallback": bool},
    lr=1e-3,
    nesterov=True,
    ns_coefficients="original",
)
