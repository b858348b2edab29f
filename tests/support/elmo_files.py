"""allennlp's small model in ELMo's own files, and the vectors that its tests expect (shared/data/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zoo.core.base import Core
from zoo.core.characters import character_ids
from zoo.inputs import AttentionPattern, CoreInputs

FIXTURE = Path(__file__).parents[3] / "shared" / "data" / "elmo_fixtures" / "allennlp"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason="needs shared/data/elmo_fixtures beside the repository")
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def batches() -> Iterator[tuple[list[list[str]], list[NDArray[np.float32]]]]:
    """Ten batches of three sentences, and the top layer of each: (2, words, 16), the forward direction first."""
    import h5py

    lists = json.loads((FIXTURE / "sentences.json").read_text())
    expected = [h5py.File(FIXTURE / f"lm_embeddings_{number}.hdf5") for number in range(3)]
    for number in range(10):
        yield [sentences[number].split() for sentences in lists], [file[str(number)][...] for file in expected]


@torch.no_grad()
def top_layers(core: Core) -> Iterator[Pair]:
    """Found and expected values of every sentence, the state carried from batch to batch."""
    state = None
    for sentences, expected in batches():
        ids = character_ids(sentences, 50)
        lengths = torch.tensor([len(sentence) + 2 for sentence in sentences])
        tokens = torch.zeros(ids.shape[:2], dtype=torch.int64)
        output = core(CoreInputs(tokens, AttentionPattern(lengths=lengths), character_ids=ids), state)
        state = output.state
        for row, values in enumerate(expected):
            found = output.last_hidden_state[row, 1 : lengths[row] - 1].unflatten(-1, (2, -1)).transpose(0, 1)
            yield found.numpy(), values


@torch.no_grad()
def token_vectors(core: Core) -> Pair:
    """Found and expected vectors of the vocabulary's words, out of context."""
    import h5py

    with h5py.File(FIXTURE / "elmo_token_embeddings.hdf5") as file:
        expected = file["embedding"][...]
    return core.embeddings(CoreInputs(torch.arange(len(expected))[None]))[0].numpy(), expected


def arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Every array of an hdf5 file by its full name."""
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return found
