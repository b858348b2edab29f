"""Shares of selected tokens: those that settings ask for, and those that some rows have."""

from __future__ import annotations

from pretraining.layouts.examples import Examples
from zoo.errors import ZooError


def check_shares(owner: str, **shares: float) -> None:
    """Raise ZooError if shares are negative or do not add up to 1."""
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ZooError(
            f"{owner}: {' + '.join(shares)} = {' + '.join(map(str, shares.values()))} = {sum(shares.values()):g}; the "
            "shares must not be negative and must add up to 1, for example 0.8, 0.1, 0.1."
        )


def masking_shares(rows: Examples, mask: int | None) -> dict[str, float]:
    """Share of the tokens that were selected, and shares of these that were masked, and replaced by other tokens.

    Args:
        rows: with ``selected`` and ``original_ids`` among their targets.
        mask: id of the mask token.
    """
    selected = rows.targets["selected"]
    count = int(selected.sum())
    changed = (rows.input_ids != rows.targets["original_ids"]) & selected
    masked = (rows.input_ids == mask) & selected
    return {
        "selected": count / max(int(rows.lengths.sum()), 1),
        "masked": int(masked.sum()) / max(count, 1),
        "replaced": int((changed & ~masked).sum()) / max(count, 1),
    }
