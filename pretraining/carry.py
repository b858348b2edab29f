"""What a core remembers from one step to the next: segment memory, an LSTM's carry; rows follow the global batch.

Row g of batch t + 1 goes on where row g of batch t ended (``Layout.order = "streams"``), so its state stays with the
process and the accumulation slice that row g belongs to. A checkpoint keeps it in the order of global rows, from which
any number of processes can take its share. Streams start anew with every epoch, and nothing is remembered then.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo.errors import ZooError

State = dict[str, Tensor]
"""Named tensors, the batch first."""


class RecurrentState:
    """The states of one task.

    Args:
        slices: accumulation steps; each has rows of its own.
        accelerator: this process and its companions.
    """

    def __init__(self, slices: int, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.states: list[State | None] = [None] * slices
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """Before a step on an epoch's rows: a new epoch starts with nothing remembered."""
        if epoch != self.epoch:
            self.states = [None] * len(self.states)
        self.epoch = epoch

    @property
    def lengths(self) -> list[int]:
        """Tokens that each slice remembers, so that attention looks at them."""
        return [state["memory_0"].shape[1] if state and "memory_0" in state else 0 for state in self.states]

    def keep(self, number: int, state: State | None) -> None:
        """What slice ``number`` remembers for its next rows; gradients end here."""
        self.states[number] = None if not state else {name: tensor.detach() for name, tensor in state.items()}

    def pack(self) -> State:
        """(B, ...) tensors in the order of global rows; every process takes part."""
        parts = [state for state in self.states if state is not None]
        if not parts:
            return {}
        gathered = [{n: self.accelerator.gather(t.contiguous()) for n, t in part.items()} for part in parts]
        return {name: torch.cat([part[name] for part in gathered]) for name in parts[0]}

    def unpack(self, tensors: State, epoch: int) -> None:
        """Take this process's share of what :meth:`pack` made.

        Raises:
            ZooError: the rows cannot be shared out over these slices and processes.
        """
        self.epoch = epoch
        if not tensors:
            return
        slices, processes = len(self.states), self.accelerator.num_processes
        rows = len(next(iter(tensors.values())))
        if rows % (slices * processes):
            raise ZooError(
                f"the checkpoint remembers {rows} rows, which {processes} processes with {slices} accumulation steps "
                "cannot share; take another number of processes, or another train.micro_batch_size."
            )
        rank, device = self.accelerator.process_index, self.accelerator.device
        shared = {n: t.view(slices, processes, -1, *t.shape[1:])[:, rank].to(device) for n, t in tensors.items()}
        self.states = [{name: tensor[number].clone() for name, tensor in shared.items()} for number in range(slices)]
