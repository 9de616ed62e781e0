"""The masks of a network in training: decided by scores, put back after each step, kept in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from imgrec.compress.pruning.masks import Scope, keep_best, n_of_m
from imgrec.compress.pruning.weight_importance import SCORES, Criterion, accumulate, score
from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError
from imgrec.utils.seeding import position_generator


class Masking:
    """Masks of some weights. What is masked is zero: in training, in checkpoints, in what is shared.

    A masked weight stays masked, but under ``movement``: there the gradients go through the masks to the scores, as to
    those of the other weights, so that a weight can come back, with the value that it had when it went.

    Args:
        criterion: what makes a weight matter.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share.
        pattern: N of every M inputs stay, in the place of a share.
        seed: of random scores, which are the same at every decision.

    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> masking = Masking()
    >>> masking.bind({"weight": layer.weight})
    >>> masking.prune(0.75)
    >>> masking.sparsity, int((layer.weight == 0).sum())
    (0.75, 6)
    """

    def __init__(
        self,
        criterion: Criterion = "magnitude",
        scope: Scope = "global",
        pattern: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.criterion = criterion
        self.scope = scope
        self.pattern = pattern
        self.seed = seed
        self.weights: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        """1 where a weight stays, in the weights' own type: a product is four times as fast as a fill by booleans."""
        self.sums: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        """Under ``movement``: the values of masked weights before they went, zero elsewhere."""

    def bind(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights; what is known of weights of the same names stays, and masks are put on.

        Raises:
            UserError: the masks are of other weights.
        """
        self.weights = dict(weights)
        for name, mask in self.masks.items():
            if name not in weights or weights[name].shape != mask.shape:
                there = f"is {tuple(weights[name].shape)}" if name in weights else "is not there"
                raise UserError(f"the masks are of another network: {name} {there}, its mask {tuple(mask.shape)}")
        for kept in (self.masks, self.sums, self.held):
            for name, value in kept.items():
                dtype = torch.float32 if kept is self.sums else weights[name].dtype
                kept[name] = torch.zeros_like(weights[name], dtype=dtype).copy_(value)  # in the weights' order, too
        self.mask_weights()

    def follow(self, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        """Go on with a network that has lost channels or blocks.

        Args:
            weights: what there is now; names that are gone are forgotten.
            kept: for each weight that was cut, int64 indices into the flattened old one, in the new shape.
        """
        there = {name: weights[name] for name in self.weights if name in weights}
        for part in (self.masks, self.sums, self.held):
            cut = {name: select(value, kept[name]) if name in kept else value for name, value in part.items()}
            part.clear()
            part.update({name: value for name, value in cut.items() if name in there})
        self.bind(there)

    @property
    def needs_gradients(self) -> bool:
        """Whether the criterion looks at gradients."""
        return SCORES[self.criterion] is not None

    @property
    def sparsity(self) -> float:
        """The share of the weights that is masked."""
        total = sum(weight.numel() for weight in self.weights.values())
        return 1 - self.kept / total if total else 0.0

    @property
    def kept(self) -> int:
        """How many weights stay."""
        return sum(
            int(torch.count_nonzero(self.masks[name])) if name in self.masks else weight.numel()
            for name, weight in self.weights.items()
        )

    def collapsed(self) -> list[str]:
        """The names of weights of which none stays: nothing gets through such a layer."""
        return [name for name, mask in self.masks.items() if not bool(mask.any())]

    # ---------------------------------------------------------------- decisions

    def gather(self, scale: float = 1.0) -> None:
        """Add what the gradients of a step say to the scores; before :meth:`mask_gradients`.

        Args:
            scale: what the gradients are to be divided by.
        """
        accumulate(self.sums, self.weights, self.criterion, scale)
        if self.held:  # where a weight is masked it is zero, and has added nothing yet
            accumulate(self.sums, self.weights, self.criterion, scale, self.held)

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Decide which weights stay, and set the others to zero.

        Args:
            sparsity: the share of all weights that is to be zero; a pattern has its own.

        Raises:
            ValueError: a score is NaN, or was not gathered.
        """
        found = score(self.weights, self.criterion, self.sums, position_generator(self.seed, "pruning"))
        if self.criterion != "movement":
            for name, mask in self.masks.items():
                found[name].masked_fill_(mask == 0, -torch.inf)
        if self.pattern is not None:
            kept = {name: n_of_m(each, *self.pattern) for name, each in found.items()}
        else:
            kept = keep_best(found, sparsity, self.scope)
        for name, weight in self.weights.items():
            mask = torch.zeros_like(weight, requires_grad=False).copy_(kept[name])
            if self.criterion == "movement":
                dense = weight + self.held[name] if name in self.held else weight.clone()
                weight.copy_(dense)
                self.held[name] = dense.masked_fill_(mask != 0, 0)
            weight.masked_fill_(mask == 0, 0)
            self.masks[name] = mask

    def settle(self) -> None:
        """No decision follows: let go of what the next one would have needed."""
        self.sums, self.held = {}, {}

    # ---------------------------------------------------------------- at every step

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of masked weights to zero: no momentum moves them, and no norm counts them."""
        pairs = [
            (weight.grad, self.masks[name])
            for name, weight in self.weights.items()
            if name in self.masks and weight.grad is not None
        ]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Set masked weights to zero again, whatever the optimizer did to them."""
        if self.masks:
            torch._foreach_mul_([self.weights[name] for name in self.masks], list(self.masks.values()))

    @torch.no_grad()
    def mask_others(self, tensors: Mapping[str, Tensor]) -> None:
        """Mask tensors of the same names, an average of the weights say; what came back begins as its weight is."""
        for name, mask in self.masks.items():
            if name in tensors:
                there = tensors[name]
                if self.held:
                    came_back = (there == 0) & (mask != 0)
                    there.copy_(torch.where(came_back, self.weights[name].to(there.dtype), there))
                there.masked_fill_(mask == 0, 0)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Masks as booleans, and what later decisions need."""
        masks = {name: mask != 0 for name, mask in self.masks.items()}
        return {"masks": masks, "sums": dict(self.sums), "held": dict(self.held)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; :meth:`bind` follows."""
        self.masks, self.sums, self.held = (dict(state[part]) for part in ("masks", "sums", "held"))
