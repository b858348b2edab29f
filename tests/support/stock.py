"""Stock transformers models with random weights beside the zoo's reading of them: what parity tests share."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import transformers
from families import GRID, PADDED_LEFT
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, PreTrainedModel

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.heads.build import build_head
from zoo.heads.cross_entropy import linear_cross_entropy
from zoo.heads.sequence_head import SequenceHead
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput, DecoderInputs
from zoo.model_folder import ModelMetadata
from zoo.weights.config_fields import read_config
from zoo.weights.read import all_families, read_checkpoint
from zoo.weights.table import Family
from zoo.weights.write import write_checkpoint

STD = 0.3  # of every random weight, bias and gain: large enough for every mistake to show
END = 0  # id of the token that ends a row, where padding has another
LABELS = 3  # classes of a classifier or tagger


class Case(NamedTuple):
    """A point of the grid under one of the family's classes.

    Args:
        model_type: the family.
        point: name of the configuration.
        architecture: name of the class.
    """

    model_type: str
    point: str
    architecture: str

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.architecture}-{self.point.replace(' ', '_').replace(',', '')}"

    @property
    def seed(self) -> int:
        """Of weights and inputs."""
        return zlib.crc32(self.id.encode())

    @property
    def family(self) -> Family:
        """Its tables."""
        return all_families()[self.model_type]


@lru_cache(maxsize=1)
def split_cases() -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Every case, and apart from them those where all heads of the class presume facts that the point has not."""
    found: tuple[list[Case], list[Case]] = ([], [])
    for model_type, points in GRID.items():
        family = all_families()[model_type]
        for point in points:
            for architecture, heads in family.architectures.items():
                case = Case(model_type, point, architecture)
                facts = read_config(family, stock_config(case).to_dict()).to_dict()
                needs = [family.head(head).required_fields for head in heads]
                fits = not needs or any(all(facts[k] == v for k, v in need.items()) for need in needs)
                found[0 if fits else 1].append(case)
    return tuple(found[0]), tuple(found[1])


def cases(causal: bool | None = None) -> tuple[Case, ...]:
    """The grid, or its causal or its other half."""
    return tuple(c for c in split_cases()[0] if causal in (None, c.family.attention == "causal"))


def bare_cases(causal: bool | None = None) -> tuple[Case, ...]:
    """The grid with the class without a head."""
    return tuple(case for case in cases(causal) if not case.family.architectures[case.architecture])


def takes(case: Case, argument: str) -> bool:
    """Whether their class has an argument of that name."""
    return argument in inspect.signature(getattr(transformers, case.architecture).forward).parameters


# ---- theirs ---------------------------------------------------------------------------------------------------------


def stock_config(case: Case, **changes: Any) -> Any:
    """Their configuration object; classifiers and taggers get three classes."""
    heads = case.family.architectures[case.architecture]
    kinds = {case.family.head(head).config["kind"] for head in heads}
    labels = {"num_labels": LABELS} if kinds & {"classification", "tagging"} else {}
    facts = {**GRID[case.model_type][case.point], **labels, **changes}
    inside = {"bos_token_id": END, "eos_token_id": END}  # their defaults lie outside these small vocabularies
    return AutoConfig.for_model(case.model_type, **{**inside, **facts})


def randomise(module: nn.Module, seed: int) -> None:
    """Normal values for everything: matrices, biases, gains, rows of padding."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:  # Marian keeps its fixed positions as a frozen parameter
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * STD)
        for name, buffer in module.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * STD)


def make_stock(case: Case, dtype: torch.dtype = torch.float32, attention: str | None = "eager") -> PreTrainedModel:
    """A model of theirs with random weights."""
    chosen = {"attn_implementation": attention} if attention else {}
    architecture = getattr(transformers, case.architecture)
    model: PreTrainedModel = architecture._from_config(stock_config(case), dtype=dtype, **chosen)
    for parameter in model.parameters():  # XLNet makes some in fp32 whatever is asked for; loading would cast them
        parameter.data = parameter.data.to(dtype)
    randomise(model, case.seed)
    return model.eval()


def stored(model: PreTrainedModel) -> dict[str, Tensor]:
    """What their ``save_pretrained`` writes, fixed positions left out: the state dict without tied tensors."""
    left = tied_names(model) | fixed_names(model)
    return {name: value for name, value in model.state_dict().items() if name not in left}


def fixed_names(model: PreTrainedModel) -> set[str]:
    """Tensors that nothing trains, which are rebuilt: fixed positions."""
    return {name for name, value in model.named_parameters() if not value.requires_grad}


def tied_names(model: PreTrainedModel) -> set[str]:
    """Tensors that are another one under a second name."""
    return set(model.all_tied_weights_keys)


def unread_copies(model: PreTrainedModel, family: Family) -> dict[str, str]:
    """Tensors that their library wants in the file and never uses, and what the zoo writes there."""
    tied = model.config.tie_word_embeddings
    copies = [copy for head in family.heads for copy in head.copies if copy.written and copy.tied in (None, tied)]
    return {copy.theirs: copy.of for copy in copies}


# ---- ours -----------------------------------------------------------------------------------------------------------


class Ours(nn.Module):
    """A core and its heads, named as in a model folder.

    Args:
        metadata: what to build.
        tensors: their values.
    """

    def __init__(self, metadata: ModelMetadata, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.metadata = metadata
        self.core = make_core(metadata.config)
        self.heads = nn.ModuleDict({name: build_head(metadata.config, head) for name, head in metadata.heads.items()})
        self.load_state_dict(dict(tensors))

    def scores(self, name: str, output: CoreOutput, real: Tensor) -> Tensor:
        """Logits of one head."""
        head, hidden = self.heads[name], output.last_hidden_state
        if self.metadata.heads[name]["kind"] == "token":
            return head(hidden, self.core.token_embedding)
        if not isinstance(head, SequenceHead):
            return head(hidden)
        if head.reads_pooler:
            return head(output.pooler_output)
        places = torch.arange(real.shape[1]) * real
        chosen = (
            places.argmax(1) if self.metadata.template.pooling == "last" else torch.zeros(len(real), dtype=torch.long)
        )
        return head(hidden[torch.arange(len(real)), chosen])


def read_stock(model: PreTrainedModel) -> Ours:
    """Their model as ours, through the weight table."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    read = read_checkpoint(config, stored(model))
    return Ours(read.metadata, read.tensors).eval()


def under_their_names(ours: Ours, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of our parameters (weights, gradients) through the weight table."""
    return dict(write_checkpoint(ours.metadata, tensors, ours.metadata.origin).tensors)


# ---- what both read -------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Rows for both sides.

    Args:
        inputs: for our core.
        lengths: (B,) real tokens of each row.
        real: (B, L) which positions are no padding.
    """

    inputs: CoreInputs
    lengths: Tensor
    real: Tensor


def end_of(config: CoreConfig) -> int:
    """Id of the token that ends a row: never that of padding."""
    return END + 1 if config.pad_token_id == END else END


def make_batch(
    metadata: ModelMetadata,
    seed: int,
    model_type: str,
    padded: bool = True,
    positions: bool = False,
    other: bool = False,
) -> Batch:
    """Rows up to the last position there is: a full one, and shorter ones down to a single token.

    Args:
        facts: of the model.
        seed: of the draws.
        model_type: the family, for the side that it pads.
        padded: without it all rows are full.
        positions: give positions, in no order.
        other: pad at the other side than usual.
    """
    config, generator = metadata.config, torch.Generator().manual_seed(seed)
    length = min(config.max_length, config.max_position_embeddings, 40)
    lengths = torch.tensor([length, length - 3, 2, 1] if padded else [length] * 4)
    padding = config.pad_token_id
    if padding is None:  # their classifiers of causal models then take one row only, and no padding
        lengths, padding = lengths[:1], 0
    left = (model_type in PADDED_LEFT) != other
    real = torch.arange(length)[None] < lengths[:, None]
    real = real.flip(1) if left else real
    shape = real.shape
    ids = torch.randint(0, config.vocab_size - 1, shape, generator=generator)
    ids = torch.where(real, ids + (ids >= padding), padding)  # the padding's id stands nowhere else
    if model_type == "bart":  # their classifier reads the state at a row's only end token
        end = end_of(config)
        ids = ids.masked_fill(real & (ids == end), end + 2)
        ids[torch.arange(len(lengths)), lengths - 1] = end
    causal = metadata.attention == "causal"
    visible = AttentionPattern(causal, dense=real[:, None, :]) if left else AttentionPattern(causal, lengths)
    types, tasks = 3 if config.relative_segments else config.type_vocab_size, config.task_type_vocab_size
    given = torch.rand(shape, generator=generator).argsort(1) if positions else None
    if left and config.position_type != "relative":  # positions count from the first real token
        given = (real.cumsum(1) - 1).clamp(min=0)
    inputs = CoreInputs(
        ids,
        visible,
        token_type_ids=torch.randint(0, types, shape, generator=generator) if types > 1 else None,
        task_type_ids=torch.randint(0, tasks, shape[: 2 if positions else 1], generator=generator) if tasks else None,
        position_ids=given,
    )
    if config.decoder is not None:  # a target of the same lengths: all that is compared stands where it is real
        target = torch.randint(0, config.vocab_size - 1, shape, generator=generator)
        target = torch.where(real, target + (target >= padding), padding)
        inputs = inputs._replace(decoder=DecoderInputs(target, visible._replace(causal=True)))
    return Batch(inputs, lengths, real)


def stock_inputs(batch: Batch, metadata: ModelMetadata) -> dict[str, Tensor]:
    """The same rows as arguments of their models."""
    inputs = batch.inputs
    given = {"input_ids": inputs.input_ids, "attention_mask": batch.real.long()}
    if inputs.decoder is not None:
        given |= {"decoder_input_ids": inputs.decoder.input_ids, "decoder_attention_mask": given["attention_mask"]}
    if inputs.token_type_ids is not None:
        given["langs" if metadata.origin == "xlm" else "token_type_ids"] = inputs.token_type_ids
    if inputs.task_type_ids is not None:
        tasks = inputs.task_type_ids
        given["task_type_ids"] = tasks if tasks.ndim == 2 else tasks[:, None].expand_as(inputs.input_ids)
    if inputs.position_ids is not None:
        given["position_ids"] = inputs.position_ids + metadata.config.position_offset
    chooses = any(head["kind"] == "choice" for head in metadata.heads.values())
    if not chooses:
        return given
    flat = {"task_type_ids"}  # of ERNIE's chooser, which does not flatten them
    return {name: value if name in flat else value[None] for name, value in given.items()}  # one row of many choices


def draw_labels(ours: Ours, batch: Batch, seed: int) -> list[Tensor]:
    """Labels for every head in turn; an answer has two, its start and its end."""
    generator = torch.Generator().manual_seed(seed + 1)
    real, rows = batch.real, len(batch.lengths)
    labels: list[Tensor] = []
    for head in ours.metadata.heads.values():
        kind = head["kind"]
        if kind == "token" and ours.metadata.attention == "causal":
            labels.append(torch.where(real, batch.inputs.input_ids, -100))
        elif kind == "token":
            drawn = torch.randint(0, ours.metadata.config.vocab_size, real.shape, generator=generator)
            chosen = torch.rand(real.shape, generator=generator) < 0.4
            chosen[:, 0] = True
            labels.append(torch.where(real & chosen, drawn, -100))
        elif kind == "choice":
            labels.append(torch.randint(0, rows, (1,), generator=generator))
        elif kind in ("pair", "classification"):
            labels.append(torch.randint(0, head["num_labels"], (rows,), generator=generator))
        elif kind == "span":
            ends = [torch.rand(rows, generator=generator) * batch.lengths for _ in range(2)]
            labels += [end.long() for end in ends]
        else:
            drawn = torch.randint(0, max(2, head["num_labels"]), real.shape, generator=generator)
            labels.append(torch.where(real, drawn, -100))
    return labels


def stock_labels(model: PreTrainedModel, labels: list[Tensor]) -> dict[str, Tensor]:
    """The labels as arguments of their model."""
    known = inspect.signature(model.forward).parameters
    names = [name for name in known if "label" in name or name in ("start_positions", "end_positions")]
    return dict(zip(names, labels, strict=True))


def our_loss(ours: Ours, output: CoreOutput, batch: Batch, labels: list[Tensor]) -> Tensor:
    """Sum over the heads of each one's mean loss."""
    left = iter(labels)
    total = torch.zeros((), dtype=torch.float32)
    for name, facts in ours.metadata.heads.items():
        head, hidden, wanted = ours.heads[name], output.last_hidden_state, next(left)
        if facts["kind"] == "token":
            if ours.metadata.attention == "causal":
                hidden, wanted = hidden[:, :-1], wanted[:, 1:]
            chosen = wanted != -100
            matrix = head.matrix(ours.core.token_embedding)
            found = linear_cross_entropy(head.features(hidden[chosen]), matrix, head.bias, wanted[chosen])
            total = total + found.total / chosen.sum()
            continue
        scores = ours.scores(name, output, batch.real)
        if facts["kind"] == "replaced":
            wanted = wanted[batch.real].float()
            total = total + functional.binary_cross_entropy_with_logits(scores[batch.real].squeeze(-1), wanted)
        elif facts["kind"] == "span":
            both = [functional.cross_entropy(s, w) for s, w in zip(scores.unbind(-1), (wanted, next(left)))]
            total = total + sum(both) / 2
        elif facts["kind"] == "choice":
            total = total + functional.cross_entropy(scores.view(1, -1), wanted)
        else:
            total = total + functional.cross_entropy(scores.flatten(0, -2), wanted.flatten())
    return total


def both_scores(ours: Ours, output: CoreOutput, theirs: Mapping[str, Tensor], batch: Batch) -> Iterator[tuple]:
    """Pairs of our and their logits, whole rows or real positions only; theirs are found by their size, in order."""
    found = [value for name, value in theirs.items() if name.endswith("logits")]
    for name, facts in ours.metadata.heads.items():
        scores = ours.scores(name, output, batch.real)
        parts = scores.unbind(-1) if facts["kind"] == "span" else [scores]
        for part in parts:
            place = next(i for i, value in enumerate(found) if value.numel() == part.numel())
            expected = found.pop(place)
            mine = part.reshape(expected.shape)
            whole = facts["kind"] in ("pair", "classification", "choice")
            yield (mine, expected) if whole else (mine[batch.real], expected[batch.real])
