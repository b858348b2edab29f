"""Small commands on settings: ``zoo prepare``."""

from __future__ import annotations

from pretraining.annotations.to_tokens import describe
from pretraining.store.token_store import Store
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.stores import run_stores


def prepare_command(argv: list[str]) -> int:
    """Build the token stores of a run's settings, or find them finished."""
    stores = run_stores(load_pretrain_config(argv).value, True)
    _print(stores.main, "")
    for name, store in stores.by_task.items():
        _print(store, f"task {name}: ")
    return 0


def _print(store: Store, title: str) -> None:
    """Sizes of a store, and what its annotations came to."""
    print(
        f"{title}{store.path}: {store.num_documents:,} documents, {len(store.sentences) - 1:,} sentences, "
        f"{store.num_tokens:,} tokens, vocabulary {store.meta['vocab_size']:,}"
    )
    for name, entry in store.meta.get("annotations", {}).items():
        print(f"  {describe(name, entry)}")
