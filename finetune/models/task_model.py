"""A core under a task's head: trained with it; frozen, its layers mixed; or under its own, to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import FeatureSettings
from finetune.inputs.features import FeatureBatch, TextFeatures
from finetune.inputs.rows import WritingBatch
from zoo.attention.positions import states_at
from zoo.core.base import Core
from zoo.core.init import initialise
from zoo.core.target_reader import on_both_sides
from zoo.dropout import keyed_dropout
from zoo.heads.build import build_head
from zoo.heads.cross_entropy import linear_cross_entropy
from zoo.heads.scalar_mix import FrozenCore
from zoo.heads.sequence_head import SequenceHead, new_sequence_head, pooled_state
from zoo.heads.task_network import TaskNetwork
from zoo.heads.token_heads import LabelHead, TokenHead
from zoo.inputs import CoreInputs, CoreOutput, DecoderInputs
from zoo.model_folder import ModelMetadata

_SITE = 1 << 20  # number of the classifier's dropout, beyond those of any core


class TaskModel(nn.Module):
    """A core, dropout and a head: on one state of each sequence, or on the states at its slots.

    A core with a decoder reads each row on both sides, and the states are the decoder's.

    What stands between one state and its scores is :func:`zoo.heads.sequence_head.new_sequence_head`'s to say.

    Args:
        core: the pretrained core; its new rows and heads not included.
        metadata: the model folder's; its template and attention pattern are read.
        head: the task's head, see :meth:`finetune.kinds.base.TaskKind.head_config`.
        dropout: probability on what the scores are computed of.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(self, core: Core, metadata: ModelMetadata, head: Mapping[str, Any], dropout: float, seed: int) -> None:
        super().__init__()
        self.core = core
        self.frozen = False
        self.token_head: TokenHead | None = None
        self.pooling, self.decoder_start = metadata.template.pooling, metadata.decoder_start_token_id
        self.dropout = dropout
        of_state = head["kind"] in ("classification", "choice")
        new = new_sequence_head(core.config, self.pooling, metadata.attention) if of_state else {}
        made = build_head(core.config, {**head, **new})
        assert isinstance(made, SequenceHead | LabelHead)
        self.head = made
        for key, module in (("dense", made.dense), ("classifier", made.output)):
            initialise(module, core.config, seed, f"finetune.{key}.")
        if core.pooler is not None and not self.reads_pooler:
            core.pooler.requires_grad_(False)  # read by nobody here
        start = getattr(getattr(core, "relative", None), "start", None)
        if start is not None:
            start.requires_grad_(False)  # of the second stream, which has no part in this

    @property
    def reads_pooler(self) -> bool:
        """Whether the head is on the core's pooler."""
        return isinstance(self.head, SequenceHead) and self.head.reads_pooler

    def forward(self, inputs: CoreInputs, slots: Tensor | None = None) -> Tensor:
        """Scores of B sequences.

        Args:
            inputs: (B, L) ids.
            slots: (B, R) positions whose states are scored, ascending, then -1 = none; ``None`` where the head reads
                one state.

        Returns:
            (B, width), or (S, width) of the slots, row by row. While a model with a ``token_head`` trains, there is a
            last column: each sequence's mean loss of the next token.
        """
        if slots is not None:
            return self._of_slots(inputs, slots)
        if self.token_head is not None and self.training:
            return self._with_next_tokens(inputs, self.token_head)
        output = self._read_core(inputs, self._read(inputs))
        state = output.pooler_output if self.reads_pooler else self._state(output.last_hidden_state, inputs)
        assert state is not None
        return self._scores(state, inputs.dropout_keys)

    def _with_next_tokens(self, inputs: CoreInputs, head: TokenHead) -> Tensor:
        """(B, width + 1) scores, and the loss of the next token, a mean over each sequence (specs: GPT, section 5)."""
        hidden = self._read_core(inputs, None).last_hidden_state
        scores = self._scores(self._state(hidden, inputs), inputs.dropout_keys)
        batch, length = inputs.input_ids.shape
        lengths = inputs.attention_pattern.lengths
        counts = torch.full((batch,), length, device=hidden.device) if lengths is None else lengths
        columns = torch.arange(length - 1, device=hidden.device)
        asked = columns < (counts - 1)[:, None]
        places = (torch.arange(batch, device=hidden.device)[:, None] * length + columns)[asked]
        labels = inputs.input_ids[:, 1:][asked]
        states = hidden.flatten(0, 1).index_select(0, places)
        losses = functional.cross_entropy(head(states, self.core.token_embedding).float(), labels, reduction="none")
        table = torch.zeros(asked.shape, device=hidden.device).masked_scatter(asked, losses)
        means = table.sum(1) / (counts - 1).clamp_min(1)
        return torch.cat([scores, means[:, None].to(scores.dtype)], dim=1)

    def _read_core(self, inputs: CoreInputs, positions: Tensor | None) -> CoreOutput:
        keys = None if self.frozen else inputs.dropout_keys
        inputs = inputs._replace(output_positions=positions, dropout_keys=keys)
        if self.core.config.decoder is not None:
            inputs = on_both_sides(inputs, self.decoder_start)
        output: CoreOutput = self.core(inputs)
        return output

    def _of_slots(self, inputs: CoreInputs, slots: Tensor) -> Tensor:
        spare = slots.amax(1, keepdim=True).clamp_min(0)  # a state that is computed stands where no slot is
        at = torch.where(slots < 0, spare, slots)
        again = torch.zeros_like(at, dtype=torch.bool)
        again[:, 1:] = at[:, 1:] == at[:, :-1]
        read = None if slots.shape[1] >= inputs.input_ids.shape[1] else at.masked_fill(again, -1)
        hidden = self._read_core(inputs, read).last_hidden_state
        return self._scores(states_at(hidden, at), inputs.dropout_keys)[slots >= 0]

    def _scores(self, states: Tensor, keys: Tensor | None) -> Tensor:
        features = self.head.features(states)
        return self.head.output(keyed_dropout(features, keys, _SITE, self.dropout))

    def _read(self, inputs: CoreInputs) -> Tensor | None:
        """(B, 1) position of the only state that is read; ``None`` = there are two."""
        lengths, first = inputs.attention_pattern.lengths, torch.zeros_like(inputs.input_ids[:, :1])
        if self.reads_pooler or self.pooling == "first":
            return first
        if self.pooling != "last":
            return None
        return first + inputs.input_ids.shape[1] - 1 if lengths is None else lengths[:, None] - 1

    def _state(self, hidden: Tensor, inputs: CoreInputs) -> Tensor:
        """(B, L, W) -> (B, W): the state that the template's pooling names."""
        lengths = inputs.attention_pattern.lengths
        return pooled_state(hidden, self.pooling, None if lengths is None else lengths - 1)

    def freeze_core(self) -> None:
        """Train the head alone, on a core without dropout."""
        self.core.requires_grad_(False)
        self.frozen = True

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {"classifier": self.head}

    def penalty(self) -> float:
        """What the loss gets on top: nothing."""
        return 0.0


class JointModel(nn.Module):
    """One core under the heads of several tasks (MT-DNN, Liu et al. 2019); a batch is of one task.

    Args:
        models: of each task by its name; all of them hold the same core.
        whole: all of the core is trained, its pooler where any of them reads it.

    Attributes:
        task: whose head reads the core.
    """

    def __init__(self, models: Mapping[str, TaskModel], whole: bool) -> None:
        super().__init__()
        self._models = tuple(models.items())  # what they hold is here already; their cores are one
        self.core = self._models[0][1].core
        self.heads = nn.ModuleDict({str(number): model.head for number, (_, model) in enumerate(self._models)})
        self.task = self._models[0][0]
        if whole and self.core.pooler is not None:
            self.core.pooler.requires_grad_(any(model.reads_pooler for model in models.values()))

    def of(self, task: str) -> TaskModel:
        """The core under one task's head."""
        return dict(self._models)[task]

    def train(self, mode: bool = True) -> JointModel:
        """Switch dropout on or off, in all of them."""
        for _, model in self._models:
            model.train(mode)
        super().train(mode)
        return self

    def forward(self, inputs: CoreInputs, slots: Tensor | None = None) -> Tensor:
        """Scores of B sequences of the task that :attr:`task` names, as :meth:`TaskModel.forward`."""
        return self.of(self.task)(inputs, slots)

    def penalty(self) -> float:
        """What the loss gets on top: nothing."""
        return 0.0


class FeatureModel(nn.Module):
    """A frozen core, mixes of its layers, and a task network on them.

    Args:
        core: the pretrained core.
        head: the task's head, see :meth:`finetune.kinds.base.TaskKind.head_config`.
        settings: of the features.
        dropout: inside the network.
        pair: whether a sequence has two texts.
        seed: fine-tuning seed; keys the new weights.
    """

    def __init__(
        self, core: Core, head: Mapping[str, Any], settings: FeatureSettings, dropout: float, pair: bool, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.dropout = settings, dropout
        self.features = FrozenCore(core, settings.mixes, settings.layer_norm, settings.dropout)
        self.network = TaskNetwork(
            core.config,
            head["num_labels"],
            "features",
            settings.mixes,
            settings.hidden_size,
            pair,
            head.get("labels"),
            tokens=head["kind"] in ("tagging", "span"),
        )
        initialise(self.network, core.config, seed, "finetune.network.")

    @property
    def core(self) -> Core:
        """The core."""
        return self.features.core

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {"mixes": self.features.mixes, "classifier": self.network}

    def forward(self, batch: FeatureBatch, slots: Tensor | None = None) -> Tensor:
        """Scores of B sequences, as :meth:`TaskModel.forward`."""
        mixed = []
        for number, text in enumerate(batch.texts):
            layers = self.read(text) if text.layers is None else text.layers
            real = torch.arange(layers.shape[1], device=layers.device) < text.lengths.to(layers.device)[:, None]
            mixed.append(self.features.mix(layers.unbind(2), real, batch.dropout_keys, number))
        return self.network(mixed, [text.lengths for text in batch.texts], batch.dropout_keys, self.dropout, slots)

    def read(self, text: TextFeatures) -> Tensor:
        """(B, L, J, W) layers of a text's own tokens, from the core."""
        assert text.inputs is not None
        assert text.start is not None
        states = torch.stack(self.features.layers(text.inputs), dim=2)
        columns = torch.arange(int(text.lengths.max()), device=states.device)
        at = (text.start[:, None] + columns).clamp(max=states.shape[1] - 1)
        return states_at(states, at)

    def penalty(self) -> Tensor:
        """0-d: what the loss gets on top."""
        return self.settings.regulariser * self.features.regulariser()


class Search(NamedTuple):
    """How a target is written.

    Args:
        tokens: of it, at most.
        end: token that ends it.
        pad: padding id.
        num_beams: beams; 1 = greedy.
        length_penalty: the beams' log-probability is divided by their length to this power.
    """

    tokens: int
    end: int
    pad: int
    num_beams: int = 1
    length_penalty: float = 1.0

    def options(self) -> dict[str, Any]:
        """Arguments of transformers' ``generate``."""
        beams = {"length_penalty": self.length_penalty} if self.num_beams > 1 else {}
        return {"do_sample": False, "num_beams": self.num_beams, "max_new_tokens": self.tokens, **beams}


class WritingModel(nn.Module):
    """A core with a decoder under the head that it was pretrained with: nothing is new (Raffel et al. 2020).

    Args:
        core: the pretrained core.
        head: its head over tokens.
        name: the head's, in the model folder.
        metadata: the model folder's; what a target starts with is read.
        search: how targets are written.
    """

    def __init__(self, core: Core, head: TokenHead, name: str, metadata: ModelMetadata, search: Search) -> None:
        super().__init__()
        self.core, self.head, self.name, self.search = core, head, name, search
        assert metadata.decoder_start_token_id is not None
        self.start = metadata.decoder_start_token_id
        self._metadata = metadata
        if core.pooler is not None:
            core.pooler.requires_grad_(False)  # read by nobody here

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What a model folder keeps beside the core."""
        return {self.name: self.head}

    def forward(self, batch: WritingBatch) -> Tensor:
        """The loss while it trains; else what it writes.

        Args:
            batch: sources, and targets while it trains.

        Returns:
            (1, 1) summed cross-entropy of all targets' tokens; or (B, tokens) the ids that are written of each source,
            with 1 added, its end among them, and 0 behind.
        """
        return self._loss(batch) if self.training else self._written(batch.inputs)

    def penalty(self) -> float:
        """What the loss gets on top: nothing."""
        return 0.0

    def _loss(self, batch: WritingBatch) -> Tensor:
        labels = batch.labels
        read = torch.full_like(labels, self.start)
        read[:, 1:] = labels[:, :-1]
        read = read.masked_fill(labels < 0, self.search.pad)
        states = self.core(batch.inputs._replace(decoder=DecoderInputs(read))).last_hidden_state
        asked = labels.reshape(-1) >= 0
        picked = states.reshape(-1, states.shape[-1])[asked]
        matrix = self.head.matrix(self.core.token_embedding)
        loss = linear_cross_entropy(self.head.features(picked), matrix, self.head.bias, labels.reshape(-1)[asked])
        return loss.total.reshape(1, 1)

    def _written(self, inputs: CoreInputs) -> Tensor:
        from zoo.hf.seq2seq import ZooForConditionalGeneration

        if "_generator" not in self.__dict__:
            made = ZooForConditionalGeneration.around(self.core, self.heads, self._metadata)
            self.__dict__["_generator"] = made  # no part of this model, whose parts it shares
        written = (
            self.__dict__["_generator"]
            .eval()
            .generate(
                inputs.input_ids,
                attention_mask=_real(inputs),
                decoder_start_token_id=self.start,
                eos_token_id=self.search.end,
                pad_token_id=self.search.pad,
                **self.search.options(),
            )[:, 1:]
        )
        ended = (written == self.search.end).int().cumsum(1) - (written == self.search.end).int() > 0
        found = torch.zeros(len(written), self.search.tokens, device=written.device)
        found[:, : written.shape[1]] = (written + 1).masked_fill(ended, 0).to(found.dtype)
        return found


def _real(inputs: CoreInputs) -> Tensor:
    """(B, L) 1 = a token that is no padding."""
    pattern = inputs.attention_pattern
    real = torch.ones_like(inputs.input_ids)
    if pattern.lengths is None:
        return real
    return real * (torch.arange(real.shape[1], device=real.device) < pattern.lengths[:, None])
