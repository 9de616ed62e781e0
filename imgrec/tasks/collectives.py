"""Collective operations of the processes of a run, with a result that does not depend on timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from imgrec.data.samplers.order import process_rank
from imgrec.errors import UserError

T = TypeVar("T")


def process_count() -> int:
    """Return the number of processes that train together, 1 without a process group."""
    return process_rank()[1]


def gather_objects(item: T, everywhere: bool = False) -> list[T]:
    """Gather one object from every process, in the order of the ranks.

    Args:
        item: Small object of this process that can be pickled. All processes are of the same run.
        everywhere: True to return the list on every process. Defaults to False: the list is empty on all processes
            except the first.
    """
    rank, count = process_rank()
    if count == 1:
        return [item]
    found: list[Any] = [None] * count
    if everywhere:
        distributed.all_gather_object(found, item)
    else:
        distributed.gather_object(item, found if rank == 0 else None)
    return found if everywhere or rank == 0 else []


def gather_rounds(parts: list[Tensor], places: Sequence[Tensor]) -> Tensor | None:
    """Gather rows from every process into one tensor on the CPU of the first process.

    One part of each process is gathered at a time and written to its rows. ``parts`` is emptied in the meantime, the
    last part first. The peak memory is therefore the result and one part per process.

    Args:
        parts: Tensors ``(rows, ...)`` of this process, which differ in the number of rows only. The list may be empty.
        places: Rows of the result for the rows of each process, int64 ``(rows,)``. Used on the first process.

    Returns:
        Tensor with the rows of all processes on the first process, otherwise ``None``.
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


def run_on_rank_zero(compute: Callable[[], T]) -> T:
    """Run ``compute`` on the first process and return its result on every process.

    Raises:
        UserError: If the first process raised it.
        RuntimeError: If the first process raised another error, on the other processes.
    """
    rank, count = process_rank()
    if count == 1:
        return compute()
    message: list[Any] = [None, None, False]
    failure: Exception | None = None
    if rank == 0:
        try:
            message[0] = compute()
        except Exception as error:  # otherwise the other processes would wait until the timeout
            failure = error
            message = [None, f"{type(error).__name__}: {error}", isinstance(error, UserError)]
    distributed.broadcast_object_list(message)
    if failure is not None:
        raise failure
    if message[1] is not None:
        raise UserError(message[1].partition(": ")[2]) if message[2] else RuntimeError(f"first process: {message[1]}")
    result: T = message[0]
    return result


def broadcast_buffers(model: nn.Module) -> None:
    """Copy the buffers of the first process to all others, because running statistics differ between processes."""
    if process_count() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def _device() -> torch.device:
    """Return the device on which the collectives of the process group expect their tensors."""
    gloo = distributed.get_backend() == distributed.Backend.GLOO
    return torch.device("cpu") if gloo else torch.device("cuda", torch.cuda.current_device())
