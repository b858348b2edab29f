"""Small commands on settings: ``zoo prepare``."""

from __future__ import annotations

from pretraining.config import load_pretrain_config
from pretraining.prepare import prepare
from pretraining.spans import describe


def prepare_command(argv: list[str]) -> int:
    """Build the token store of a run's settings, or find it finished."""
    config = load_pretrain_config(argv).value
    data = config.data
    store = prepare(data.corpus, data.tokenizer, data.stores, processes=data.processes, template=config.template)
    print(
        f"{store.path}: {store.num_documents:,} documents, {len(store.sentences) - 1:,} sentences, "
        f"{store.num_tokens:,} tokens, vocabulary {store.meta['vocab_size']:,}"
    )
    for name, entry in store.meta.get("annotations", {}).items():
        print(f"  {describe(name, entry)}")
    return 0
