"""What the processes of a run tell one another: little, and in an order that is always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from imgrec.data.samplers.order import process_rank
from imgrec.errors import UserError

T = TypeVar("T")


def process_count() -> int:
    """The number of processes that train together: 1 where there is no group."""
    return process_rank()[1]


def gather_objects(own: T, everywhere: bool = False) -> list[T]:
    """What every process gives, in the order of their ranks; an empty list on all but the first.

    Args:
        own: something small that can be pickled; the processes are those of one run, started together.
        everywhere: every process gets the list.
    """
    rank, count = process_rank()
    if count == 1:
        return [own]
    found: list[Any] = [None] * count
    if everywhere:
        distributed.all_gather_object(found, own)
    else:
        distributed.gather_object(own, found if rank == 0 else None)
    return found if everywhere or rank == 0 else []


def gather_rounds(parts: list[Tensor], places: Sequence[Tensor]) -> Tensor | None:
    """The rows of every process, each in its place: one tensor on the CPU, on the first process.

    One part of each process is gathered at a time and put where it belongs, so that nothing lies in memory twice but
    what a process brings itself; ``parts`` is emptied on the way, last part first, so that memory is given back.

    Shapes: parts ``(rows, ...)``, alike but for the rows; ``places`` int64 ``(rows of a process,)``, one for each.

    Args:
        parts: those of this process; there may be none.
        places: on the first process, for each process the rows of the result that its rows become.
    """
    rank, count = process_rank()
    own = [len(part) for part in parts]
    about = (own, parts[0].shape[1:], parts[0].dtype) if parts else (own, None, None)
    everyone = gather_objects(about, everywhere=True)
    known = [(shape, dtype) for _, shape, dtype in everyone if shape is not None and dtype is not None]
    if not known:
        return None
    shape, dtype = known[0]
    sizes = [rows for rows, *_ in everyone]
    result = torch.empty(sum(map(sum, sizes)), *shape, dtype=dtype) if rank == 0 else None
    rows_of_round = max(max(rows, default=0) for rows in sizes)
    for i in range(max(map(len, sizes)) - 1, -1, -1):
        part = parts.pop() if i < len(parts) else None
        if count == 1:
            received = [part]
        else:
            padded = torch.empty(rows_of_round, *shape, dtype=dtype, device=_device())
            if part is not None:
                padded[: len(part)] = part
            received = [torch.empty_like(padded) for _ in range(count)] if rank == 0 else []
            distributed.gather(padded, received or None)  # type: ignore[arg-type]
        for sender, rows in enumerate(received):
            if result is not None and rows is not None and i < len(sizes[sender]):
                start, length = sum(sizes[sender][:i]), sizes[sender][i]
                result[places[sender][start : start + length]] = rows[:length].cpu()
    return result


def on_first(compute: Callable[[], T]) -> T:
    """What ``compute`` gives on the first process, on every process; an error there is an error everywhere.

    Raises:
        UserError: the first process raised one.
        RuntimeError: on the others, the first process raised something else.
    """
    rank, count = process_rank()
    if count == 1:
        return compute()
    told: list[Any] = [None, None, False]
    failure: Exception | None = None
    if rank == 0:
        try:
            told[0] = compute()
        except Exception as error:  # or the others would wait for it until a timeout
            failure = error
            told = [None, f"{type(error).__name__}: {error}", isinstance(error, UserError)]
    distributed.broadcast_object_list(told)
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise UserError(told[1].partition(": ")[2]) if told[2] else RuntimeError(f"the first process: {told[1]}")
    result: T = told[0]
    return result


def first_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first: the running statistics of batch normalization are each one's own."""
    if process_count() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def _device() -> torch.device:
    """Where the group's collectives take their tensors."""
    gloo = distributed.get_backend() == distributed.Backend.GLOO
    return torch.device("cpu") if gloo else torch.device("cuda", torch.cuda.current_device())
