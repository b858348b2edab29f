"""What a backward pass consists of."""

from torch import Tensor

UNORDERED = {"IndexBackward0", "IndexPutBackward0", "PutBackward0", "UnsafeIndexBackward0"}
"""Steps that add to one place from several threads, in the order in which these come (tried on torch 2.13)."""


def backward_steps(result: Tensor) -> set[str]:
    """Kinds of all the steps from a tensor back to the parameters."""
    kinds, seen, waiting = set[str](), set(), [result.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        kinds.add(type(step).__name__)
        waiting += [before for before, _ in step.next_functions]
    return kinds
