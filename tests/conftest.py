"""Options of the test run, and what many test files want."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--write-docs``: tests that measure rewrite the document with their figures."""
    parser.addoption("--write-docs", action="store_true", help="rewrite docs/parity.md with what the tests measured")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: small models are faster on it, and a busy second core does not slow them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
