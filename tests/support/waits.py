"""Operations whose result the host needs, counted: on a GPU each would wait for all that was asked for before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_KINDS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class Waits(TorchDispatchMode):
    """Within it, the names of such operations are noted in ``found``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation and do it."""
        if func.overloadpacket.__name__.startswith(_KINDS):
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def waits_of_step(trainer: Any) -> Iterator[list[str]]:
    """Such operations of the trainer's step within, from where its first batch goes to the device."""
    loss_terms, waits = trainer.loss_terms, Waits()

    def begin(batch: Any, task: str, number: int) -> Any:
        if number == 0:  # what came before was on the host
            waits.found.clear()
        return loss_terms(batch, task, number)

    trainer.loss_terms = begin
    try:
        with waits:
            yield waits.found
    finally:
        del trainer.loss_terms
