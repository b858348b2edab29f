"""What published folders do to configs, names and numbers, and what is made of it: read, said, or refused.

Wrappers leave prefixes on names, old files have other endings and no ``model_type``, quantised or damaged weights look
like weights, and a head that was never trained looks like one that was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.inputs import pack_inputs
from zoo.model_folder import ModelMetadata
from zoo.sample import sample_path
from zoo.storage.files import read_json
from zoo.storage.tensors import WEIGHT_TYPES, load_state
from zoo.weights.table import Converted, Family

_OLD_ENDINGS = ((".gamma", ".weight"), (".beta", ".bias"))  # norms before 2019
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.")  # data parallel, compiled, DeepSpeed, Lightning
_INNER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_SCALE = re.compile(
    r"(.+?)(?:_scale(?:_inv)?|[._]scales?|_zero_point|_packed|[._]?qzeros|\.absmax|\.SCB|\.g_idx|\.quant_state\..+)$"
)
_FOREIGN = {  # patterns of weights of other frameworks, and what they are
    "*.ckpt.index": "TensorFlow's checkpoint",
    "tf_model.h5": "TensorFlow's weights",
    "flax_model*.msgpack": "Flax's weights",
    "*.pdparams": "PaddlePaddle's weights",
    "*.onnx": "ONNX's graph",
    "*.gguf": "llama.cpp's quantised weights",
}

# ---- configs --------------------------------------------------------------------------------------------------------


def their_config(
    folder: Path, families: Mapping[str, Family], names: Callable[[], Iterable[str]]
) -> tuple[dict[str, Any], list[str]]:
    """A folder's config with its ``model_type``, and what had to be concluded, a line each.

    Files from before transformers named types say none: ``bert_config.json`` does by its name, and else the class or
    the tensors' names do, where they are those of a single family.

    Args:
        folder: the folder.
        families: by ``model_type``.
        names: gives those of its tensors, where they are needed.

    Raises:
        ZooError: there is no config, or nothing says whose it is.
    """
    for family in families.values():
        if family.config_file != "config.json" and (folder / family.config_file).exists():
            return {**read_json(folder / family.config_file), "model_type": family.model_type}, []
    if not (folder / "config.json").exists():
        for family in families.values():
            file = folder / f"{family.model_type}_config.json"
            if file.exists():
                return {**read_json(file), "model_type": family.model_type}, [f"{file.name} read as {family.title}'s"]
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise ZooError(f"{folder} holds no config.json (nor bert_config.json or the like); found: {found}.")
    config = read_json(folder / "config.json")
    if config.get("model_type"):
        return config, []
    classes = set(config.get("architectures") or ())
    starts = set() if classes else {part for name in names() for part in name.split(".")[:3]}  # behind wrappers
    stock = [family for family in families.values() if family.config_file == "config.json"]
    of_class = [family for family in stock if classes & set(family.architectures)]
    of_names = [family for family in stock if family.prefix in starts]
    fitting = of_class or of_names
    if len(fitting) != 1:
        raise ZooError(
            f'{folder / "config.json"} states no "model_type", and its tensors\' names do not tell it either. Write it '
            f'there, such as "model_type": "bert"; known: {", ".join(families)}.'
        )
    title, after = fitting[0].title, "class" if of_class else "tensors"
    told = f'config.json states no "model_type": read as {title}, after its {after}'
    return {**config, "model_type": fitting[0].model_type}, [told]


def foreign_weights(folder: Path) -> str:
    """What weights of another framework a folder holds, for a message; empty where there are none."""
    for pattern, what in _FOREIGN.items():
        if found := sorted(folder.glob(pattern)):
            return f" {found[0].name} is {what}, which is not read: take the model's PyTorch or safetensors files."
    return ""


# ---- names ----------------------------------------------------------------------------------------------------------


def plain_names(tensors: Mapping[str, Tensor], prefix: str) -> tuple[Mapping[str, Tensor], list[str]]:
    """Tensors under the names that they had before they were wrapped, endings as they are written today.

    Args:
        tensors: a checkpoint.
        prefix: the family's own, which may be the name of a wrapper, too.

    Returns:
        the tensors, and what was renamed, a line each.

    Raises:
        ZooError: two tensors would have the same name.
    """
    report, old = [], {name: name for name in tensors}  # new name -> old name
    removed: list[str] = []
    while wrapper := _wrapper(old, prefix):
        removed.append(wrapper)
        old = _renamed(old, {name: name.removeprefix(wrapper) for name in old})
    removed += sorted({mark for name in old for mark in _INNER.findall(name)})
    old = _renamed(old, {name: _INNER.sub("", name) for name in old})
    if removed:
        report.append(f"names read without {', '.join(removed)}, the mark of what the model was wrapped in when saved")
    endings = {}
    for name in old:
        ending = next((e for e in _OLD_ENDINGS if name.endswith(e[0])), None)
        endings[name] = name.removesuffix(ending[0]) + ending[1] if ending else name
    if renamed := sum(new != name for name, new in endings.items()):
        report.append(f"{renamed} old names (gamma, beta) read as weight, bias")
        old = _renamed(old, endings)
    if not report:
        return tensors, []
    return Converted(tensors, {new: ((name,), list, 0) for new, name in old.items()}), report


def _wrapper(names: Iterable[str], prefix: str) -> str | None:
    """A wrapper's prefix that stands before the family's own, or before all names."""
    listed = list(names)
    for wrapper in _WRAPPERS:
        own = wrapper == f"{prefix}."
        before = any(name.startswith(f"{wrapper}{prefix}.") for name in listed)
        if before or (not own and listed and all(name.startswith(wrapper) for name in listed)):
            return wrapper
    return None


def _renamed(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, origin in old.items():
        if new[name] in found:
            raise ZooError(
                f"two tensors are {new[name]}: {found[new[name]]} and {origin}. Leave one of them out of the file."
            )
        found[new[name]] = origin
    return found


# ---- numbers --------------------------------------------------------------------------------------------------------

_HOW = (
    "Take the model from before it was quantised, or let transformers undo it (model.dequantize(), then "
    "save_pretrained). The scales cannot be left behind: weights without them are wrong."
)


def check_not_quantised(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ZooError if tensors of scales lie beside the weights, whoever asks to leave them behind."""
    known = set(names)
    scales = [name for name in sorted(known) if (base := _SCALE.match(name)) and _has_weight(base[1], known)]
    if scales:
        said = config.get("quantization_config")
        method = f" ({said['quant_method']})" if isinstance(said, Mapping) and said.get("quant_method") else ""
        raise ZooError(
            f"the weights are quantised{method}: {len(scales)} tensors hold their scales, such as {scales[0]}. {_HOW}"
        )


def _has_weight(base: str, known: set[str]) -> bool:
    return bool({base, f"{base}.weight", f"{base}.qweight", f"{base}_packed", f"{base}.weight_packed"} & known)


def check_kinds_of_numbers(tensors: Mapping[str, Tensor], needed: Iterable[str]) -> None:
    """Raise ZooError if a tensor that is read as a weight is of a type in which weights stand with scales only."""
    wrong = {
        name: tensors[name].dtype for name in needed if name in tensors and tensors[name].dtype not in WEIGHT_TYPES
    }
    if wrong:
        kinds = ", ".join(sorted({str(kind).removeprefix("torch.") for kind in wrong.values()}))
        raise ZooError(
            f"{len(wrong)} weights are of type {kinds}, such as {next(iter(wrong))}: they are quantised. {_HOW}"
        )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ZooError if a weight is NaN or infinite."""
    wrong = [name for name in tensors if not bool(torch.isfinite(tensors[name]).all())]
    if wrong:
        listing = ", ".join(wrong[:6])
        raise ZooError(
            f"{len(wrong)} tensors hold numbers that are not finite (NaN or infinite): {listing}. The file is damaged, "
            "or the run that wrote it had diverged; take an earlier checkpoint, or another copy."
        )


# ---- a head that was never trained -----------------------------------------------------------------------------------

_CHARACTERS = 60_000  # of the shipped text, for the tokens' frequencies
_ROWS, _LENGTH, _EVERY = 8, 128, 7  # rows that the model reads, of so many tokens, of which each seventh is hidden
_UNKNOWN, _PIECES = 0.05, 1.8  # above these the text is not of the model's language: nothing is said then


def untrained_head(metadata: ModelMetadata, tensors: Mapping[str, Tensor], folder: Path, mask_token: str) -> str | None:
    """What the shipped text says against a head that predicts masked tokens; ``None`` where it says nothing.

    Some published models have such a head with random numbers in it. On a text of its language its loss is then higher
    than that of the tokens' frequencies alone, their entropy, and a trained head's is much lower.

    Args:
        metadata: of the model.
        tensors: ``core.*`` and ``heads.NAME.*``.
        folder: where its tokenizer lies.
        mask_token: what stands for a hidden token.
    """
    found = [n for n, h in metadata.heads.items() if h["kind"] == "token" and not h.get("half")]
    core = metadata.config
    if not found or metadata.attention != "bidirectional" or core.query_stream or core.recurrent is not None:
        return None
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    mask = backend.token_to_id(mask_token)
    texts = (
        None if mask is None else sample_tokens(backend, min(_LENGTH, core.max_length) - len(metadata.template.tokens))
    )
    if texts is None or mask is None:
        return None
    rows, entropy = texts
    around = [backend.token_to_id(word) for word in metadata.template.single.partition("$A")[0].split()]
    behind = [backend.token_to_id(word) for word in metadata.template.single.partition("$A")[2].split()]
    if None in (*around, *behind) or int(rows.max()) >= (core.vocab_size or 0):
        return None
    labels = rows[:, ::_EVERY].reshape(-1)
    rows[:, ::_EVERY] = mask
    sides = [torch.tensor([side], dtype=torch.long).expand(len(rows), -1) for side in (around, behind)]
    ids = torch.cat([sides[0], rows, sides[1]], dim=1)
    loss = _masked_loss(metadata, found[0], tensors, ids, ids == mask, labels)
    if loss <= entropy:
        return None
    return (
        f"head {found[0]} seems never to have been trained: it predicts hidden tokens of the shipped text with a loss "
        f"of {loss:.2f} nats, and their frequencies alone reach {entropy:.2f}. Filling masks and scoring would go by "
        "it; fine-tuning does not"
    )


def sample_tokens(backend: Tokenizer, length: int) -> tuple[Tensor, float] | None:
    """(rows, length) tokens of the shipped text in the tokenizer's language, and the entropy of its tokens in nats.

    Args:
        backend: the tokenizer.
        length: tokens of a row.

    Returns:
        ``None`` where the text is in none of its languages.
    """
    entries = backend.get_vocab()
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in entry) for entry in entries) > 0.15 * len(entries)
    with sample_path("zh/wikipedia.txt" if chinese else "en/wikipedia.txt").open(encoding="utf-8") as stream:
        text = stream.read(_CHARACTERS)
    encoded = [backend.encode(line, add_special_tokens=False) for line in text.split("\n")]
    ids = torch.tensor([i for line in encoded for i in line.ids])
    unknown = sum(token in ("[UNK]", "<unk>") for line in encoded for token in line.tokens)
    words = len(text) if chinese else len(text.split())
    if length < 2 * _EVERY or len(ids) < _ROWS * length or unknown > _UNKNOWN * len(ids) or len(ids) > _PIECES * words:
        return None
    shares = torch.bincount(ids).double() / len(ids)
    return ids[: _ROWS * length].reshape(_ROWS, length), float(torch.special.entr(shares).sum())


@torch.no_grad()
def _masked_loss(
    metadata: ModelMetadata, name: str, tensors: Mapping[str, Tensor], ids: Tensor, hidden: Tensor, labels: Tensor
) -> float:
    """Mean cross-entropy of a head at hidden positions."""
    core, head = make_core(metadata.config), build_head(metadata.config, metadata.heads[name])
    for module, prefix in ((core, "core."), (head, f"heads.{name}.")):
        own = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        load_state(module, own, "the checkpoint")
    lengths = np.full(len(ids), ids.shape[1])
    states = core.float().eval()(pack_inputs(ids.numpy(), lengths)).last_hidden_state[hidden]
    return float(functional.cross_entropy(head.float().eval()(states, core.token_embedding), labels))
