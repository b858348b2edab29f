"""``python benchmarks/generation.py``: beam search of an encoder-decoder beside the stock class, the same weights.

    python benchmarks/generation.py [--rounds 5] [--beams 4] [--family marian]

A random model of the Transformer's base size is opened in both. Both run transformers' own ``generate`` on the same
sources of 12 to 24 tokens to targets of 24, and take turns. The output must be equal. The ratio is theirs over ours,
medians of the rounds; above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from zoo.hf.convert import from_transformers

_SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", 6), ("attention_heads", 8), ("ffn_dim", 2048))
}
_PAIRED = {
    "vocab_size": 8192,
    "d_model": 512,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    **_SIDES,
}
FAMILIES = {
    "marian": lambda: MarianMTModel(MarianConfig(**_PAIRED, scale_embedding=True, max_position_embeddings=512)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**_PAIRED, max_position_embeddings=512)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=8192, decoder_start_token_id=0)),
}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--family", choices=[*FAMILIES], default="marian")
    options = parser.parse_args()
    torch.manual_seed(0)
    theirs = FAMILIES[options.family]().eval()
    theirs.generation_config.forced_eos_token_id = None
    ours = from_transformers(theirs)
    lengths = torch.linspace(12, 24, options.rows).long()
    mask = (torch.arange(24) < lengths[:, None]).long()
    ids = torch.randint(4, 8192, mask.shape)
    ways = {"num_beams": options.beams, "max_length": 24, "min_length": 24, "eos_token_id": 2, "pad_token_id": 1}
    ways |= {"decoder_start_token_id": 1, "no_repeat_ngram_size": 2}
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for number in range(options.rounds + 1):  # the first warms up
        written = []
        for name, model in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            written.append(model.generate(input_ids=ids, attention_mask=mask, **ways))
            if number:
                times[name].append(time.perf_counter() - start)
        assert torch.equal(*written), "the two write different tokens"
    medians = {name: statistics.median(found) for name, found in times.items()}
    pairs = [a / b for a, b in zip(times["theirs"], times["ours"], strict=True)]
    print(
        f"{options.family}, beam {options.beams}, {options.rows} rows, {torch.get_num_threads()} threads: "
        f"stock {medians['theirs']:.2f} s, ours {medians['ours']:.2f} s, ratio {statistics.median(pairs):.2f} "
        f"({min(pairs):.2f} to {max(pairs):.2f})"
    )


if __name__ == "__main__":
    main()
