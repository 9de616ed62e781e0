"""Masks of the weights of a network in training."""

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
    """Masks of weights, computed from scores. Masked weights are zero in training, checkpoints and model folders.

    A masked weight remains masked, except with ``movement``. There the scores of masked weights also receive
    gradients, and a weight can be restored with the value that it had before.

    Args:
        criterion: Criterion of weights. Defaults to ``magnitude``.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share. Defaults to
            ``global``.
        pattern: ``(n, m)`` for N:M sparsity: N of every M inputs remain. Defaults to none.
        seed: Seed of random scores, which are the same at every decision. Defaults to 0.

    Example:
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
        """Masks with 1 for remaining weights, in the type of the weights. A product is four times as fast as a fill."""
        self.sums: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        """Values of masked weights before they were masked, zero for other weights. Used by ``movement`` only."""

    def bind(self, weights: Mapping[str, Tensor]) -> None:
        """Set the weights, and apply the existing masks to them.

        Raises:
            UserError: If the existing masks have other names or shapes than the weights.
        """
        self.weights = dict(weights)
        for name, mask in self.masks.items():
            if name not in weights or weights[name].shape != mask.shape:
                found = f"the shape {tuple(weights[name].shape)}" if name in weights else "no such weight"
                raise UserError(f"masks: expected {name} of shape {tuple(mask.shape)}, got {found}.")
        for part in (self.masks, self.sums, self.held):
            for name, value in part.items():
                dtype = torch.float32 if part is self.sums else weights[name].dtype
                part[name] = torch.zeros_like(weights[name], dtype=dtype).copy_(value)  # with the same memory format
        self.mask_weights()

    def update_weights(self, weights: Mapping[str, Tensor], indices: Mapping[str, Tensor]) -> None:
        """Update the masks after channels or blocks were removed from the network.

        Args:
            weights: Weights after the removal. The masks of other names are deleted.
            indices: Indices of the remaining values of each weight that was pruned, int64 into the flattened old
                weight, in the new shape.
        """
        remaining = {name: weights[name] for name in self.weights if name in weights}
        for part in (self.masks, self.sums, self.held):
            cut = {name: select(value, indices[name]) if name in indices else value for name, value in part.items()}
            part.clear()
            part.update({name: value for name, value in cut.items() if name in remaining})
        self.bind(remaining)

    @property
    def needs_gradients(self) -> bool:
        """True if the criterion requires gradients."""
        return SCORES[self.criterion] is not None

    @property
    def sparsity(self) -> float:
        """Share of the weights that are masked."""
        total = sum(weight.numel() for weight in self.weights.values())
        return 1 - self.num_kept / total if total else 0.0

    @property
    def num_kept(self) -> int:
        """Number of weights that are not masked."""
        return sum(
            int(torch.count_nonzero(self.masks[name])) if name in self.masks else weight.numel()
            for name, weight in self.weights.items()
        )

    def collapsed(self) -> list[str]:
        """Return the names of weights that are masked completely, so that their layers have constant outputs."""
        return [name for name, mask in self.masks.items() if not bool(mask.any())]

    # ---------------------------------------------------------------- decisions

    def gather(self, scale: float = 1.0) -> None:
        """Add the gradients of a step to the scores. Call it before :meth:`mask_gradients`.

        Args:
            scale: Divisor of the gradients, for a scaled loss. Defaults to 1.
        """
        accumulate(self.sums, self.weights, self.criterion, scale)
        if self.held:  # masked weights are zero and have added nothing yet
            accumulate(self.sums, self.weights, self.criterion, scale, self.held)

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Compute the masks from the scores, and set masked weights to zero.

        Args:
            sparsity: Share of weights to mask, in [0, 1]. It is ignored if there is a pattern.

        Raises:
            ValueError: If a score is NaN or was not gathered.
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

    def finish(self) -> None:
        """Release the scores and stored values after the last decision."""
        self.sums, self.held = {}, {}

    # ---------------------------------------------------------------- at every step

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of masked weights to zero, for momentum and gradient norms."""
        pairs = [
            (weight.grad, self.masks[name])
            for name, weight in self.weights.items()
            if name in self.masks and weight.grad is not None
        ]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Set masked weights to zero again after an optimizer step."""
        if self.masks:
            torch._foreach_mul_([self.weights[name] for name in self.masks], list(self.masks.values()))

    @torch.no_grad()
    def mask_others(self, tensors: Mapping[str, Tensor]) -> None:
        """Mask tensors with the same names, such as averaged weights. Restored entries start at the current weight."""
        for name, mask in self.masks.items():
            if name in tensors:
                tensor = tensors[name]
                if self.held:
                    is_restored = (tensor == 0) & (mask != 0)
                    tensor.copy_(torch.where(is_restored, self.weights[name].to(tensor.dtype), tensor))
                tensor.masked_fill_(mask == 0, 0)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the masks as booleans, the scores and the stored values."""
        masks = {name: mask != 0 for name, mask in self.masks.items()}
        return {"masks": masks, "sums": dict(self.sums), "held": dict(self.held)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state. Call :meth:`bind` afterwards."""
        self.masks, self.sums, self.held = (dict(state[part]) for part in ("masks", "sums", "held"))
