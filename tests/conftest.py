"""Options of the test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--write-docs``: tests that measure rewrite the document with their figures."""
    parser.addoption("--write-docs", action="store_true", help="rewrite docs/parity.md with what the tests measured")
