"""Reformer against stock transformers under the same hashes: states, logits, losses, gradients; weights both ways.

Both sides draw their rotations in the same way from the same ``hash_seed``. Stock gradients are of its training mode,
the only one that its backward pass works in, without dropout.
"""

import dataclasses
import json

import pytest
import torch
import transformers
from stock import Ours, randomise
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.weights.config_fields import read_config
from zoo.weights.read import all_families, read_checkpoint
from zoo.weights.write import write_checkpoint

SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "attention_head_size": 6,
    "num_attention_heads": 3,
    "feed_forward_size": 36,
    "attn_layers": ["local", "lsh", "lsh"],
    "lsh_attn_chunk_length": 8,
    "local_attn_chunk_length": 8,
    "num_buckets": 8,
    "hash_seed": 5,
    "axial_pos_shape": [5, 8],
    "axial_pos_embds_dim": [10, 14],
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
    "eos_token_id": 2,
}
LEARNED = {"axial_pos_embds": False, "local_num_chunks_after": 1, "layer_norm_eps": 1e-2, "pad_token_id": 7}
CASES = {
    "causal": ("ReformerModelWithLMHead", {"is_decoder": True, "num_hashes": 2}),
    "masked": ("ReformerForMaskedLM", {"num_hashes": 2}),
    "factors": (
        "ReformerModelWithLMHead",
        {
            "is_decoder": True,
            "attn_layers": ["lsh", "lsh"],
            "num_buckets": [2, 4],
            "num_hashes": 3,
            "hidden_act": "gelu",
            "chunk_size_feed_forward": 10,
        },
    ),
    "buckets by length": ("ReformerForMaskedLM", {"num_buckets": None, "lsh_num_chunks_after": 1}),
    "learned positions": ("ReformerForMaskedLM", {"attn_layers": ["local", "local"], **LEARNED}),
    "one chunk": ("ReformerForMaskedLM", {"lsh_attn_chunk_length": 40, "local_attn_chunk_length": 40}),
    "classifier": ("ReformerForSequenceClassification", {"num_labels": 3}),
    "answers": ("ReformerForQuestionAnswering", {"num_labels": 2}),
    "bare": ("ReformerModel", {}),
}
pytestmark = pytest.mark.usefixtures("one_thread")


def both(name):
    architecture, changes = CASES[name]
    config = transformers.ReformerConfig(**{**SMALL, **changes})
    model = getattr(transformers, architecture)(config).train()
    randomise(model, 3)
    with torch.no_grad():
        for name_, value in model.named_parameters():
            if "position_embeddings" not in name_ and "query_key" not in name_:
                value.mul_(0.5)
    read = read_checkpoint({**config.to_dict(), "architectures": [architecture]}, model.state_dict())
    assert read.report == []
    return model, Ours(read.metadata, read.tensors), read


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("name", CASES)
def test_states_logits_and_gradients(name, padded):
    model, ours, read = both(name)
    length, causal = 40, read.metadata.attention == "causal"
    lengths = torch.tensor([length, 27, 3] if padded else [length] * 3)
    real = torch.arange(length) < lengths[:, None]
    ids = torch.randint(1, 61, (3, length), generator=torch.Generator().manual_seed(1))
    base = {}
    hook = model.reformer.register_forward_hook(lambda m, a, out: base.update(out.items())) if name != "bare" else None
    whole = dict(model(input_ids=ids, attention_mask=real.long()).items())
    base = base or whole
    if hook is not None:
        hook.remove()
    output = ours.core(CoreInputs(ids, AttentionPattern(causal, lengths)))
    assert (output.last_hidden_state - base["last_hidden_state"])[real].abs().max() <= 1e-5
    mine, theirs = output.last_hidden_state[real], base["last_hidden_state"][real]
    if (logits := whole.get("logits")) is not None:
        (head,) = ours.metadata.heads
        mine = ours.scores(head, output, real)
        if logits.shape[-1] == 61:  # their head has a bias, and their code never adds it (transformers 5.23)
            logits = logits + model.lm_head.bias
        mine, theirs = (mine, logits) if mine.ndim == 2 else (mine[real], logits[real])
        assert (mine - theirs).abs().max() <= 1e-5
    elif name == "answers":
        mine = ours.scores("qa_outputs", output, real)[real]
        theirs = torch.stack([whole["start_logits"], whole["end_logits"]], dim=-1)[real]
        assert (mine - theirs).abs().max() <= 1e-5
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    for scores in (mine, theirs):
        (functional.log_softmax(scores, -1) * weights).mean().backward()
    gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in ours.named_parameters()}
    found = write_checkpoint(ours.metadata, gradients, "reformer").tensors
    for key, value in model.named_parameters():
        expected = torch.zeros_like(value) if value.grad is None else value.grad
        assert (found[key] - expected).abs().max() <= 1e-5 * max(0.1, expected.abs().max()), key


@pytest.mark.parametrize("name", CASES)
def test_weights_there_and_back(name, tmp_path):
    model, _, read = both(name)
    written = write_checkpoint(read.metadata, read.tensors)
    assert written.config["architectures"] == [CASES[name][0]]
    assert set(written.tensors) == set(model.state_dict())
    assert all(torch.equal(written.tensors[key], value) for key, value in model.state_dict().items())
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    hashes = ("num_buckets", "num_hashes", "hash_seed") if "lsh" in config.attn_layers else ()
    for key in ("attn_layers", "max_position_embeddings", "is_decoder", "layer_norm_eps", *hashes):
        assert getattr(config, key) == getattr(model.config, key), key
    again = read_checkpoint(written.config, dict(written.tensors))
    assert again.metadata == read.metadata
    getattr(transformers, CASES[name][0])(config).load_state_dict(dict(written.tensors))


def test_published_sizes():
    family = all_families()["reformer"]
    default = transformers.ReformerConfig(is_decoder=True)
    large = {
        "hidden_size": 1024,
        "feed_forward_size": 4096,
        "num_attention_heads": 8,
        "attention_head_size": 128,
        "attn_layers": ["local", "local", "lsh", "local"] * 3,
        "axial_pos_shape": [128, 512],
        "axial_pos_embds_dim": [256, 768],
        "max_position_embeddings": 65536,
        "vocab_size": 258,
    }
    for config, expected in ((default, 5_975_872), (transformers.ReformerConfig(**large), 149_182_722)):
        core = read_config(family, config.to_dict())
        with torch.device("meta"):
            made = make_core(core)
        head = core.vocab_size * (core.output_width + 1)
        assert sum(p.numel() for p in made.parameters()) + head == expected


def test_what_their_class_cannot_say_is_refused():
    _, _, read = both("masked")
    plain = [{"class_path": "zoo.attention.Attention"}]
    for changes in ({"attention_layers": plain}, {"reversible": False}, {"norm": "rms"}, {"num_hidden_groups": 1}):
        core = CoreConfig.from_dict({**read.metadata.config.to_dict(), "attention_layers": None, **changes})
        with pytest.raises(ZooError):
            write_checkpoint(dataclasses.replace(read.metadata, config=core), read.tensors, "reformer")
