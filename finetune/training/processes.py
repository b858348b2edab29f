"""The processes that share a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """The processes that share a run. The default is one process, and needs no launcher.

    Args:
        accelerator: accelerate's handle where a launcher started several.
    """

    accelerator: Any = None

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes) if self.accelerator else 1

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        if self.accelerator:
            return torch.device(self.accelerator.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def share(self, model: nn.Module, several: bool = False) -> nn.Module:
        """The model with gradients averaged over the processes.

        Args:
            model: the same in each of them.
            several: it has heads that a step may leave out.
        """
        if self.world == 1:
            return model
        if several:
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        shared: nn.Module = self.accelerator.prepare(model)
        return shared

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.accelerator.reduce(value, reduction="sum") if self.world > 1 else value

    def any(self, here: bool) -> bool:
        """Whether something holds in one of the processes; all of them ask together."""
        return bool(self.total(torch.tensor(float(here), device=self.device)) > 0) if self.world > 1 else here

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            self.accelerator.wait_for_everyone()


ALONE = Processes()
