"""The one file that speaks transformers: any model of the zoo as a ``PreTrainedModel``, known to the Auto classes.

``import zoo.hf`` registers them; a model folder then opens with ``AutoModelForMaskedLM.from_pretrained(FOLDER)`` and is
written by ``save_pretrained``: tensors have the same names on both sides (``core.*``, ``heads.NAME.*``), and
``config.json`` keeps the zoo's facts beside transformers' own keys.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    StaticCache,
)
from transformers import initialization as hf_init
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple as untyped_can_return_tuple

from zoo.config import CoreConfig, read_json
from zoo.core import Embeddings, make_core, sinusoids
from zoo.errors import ZooError
from zoo.folder import MODEL_TYPE, ModelFacts, facts_from_dict, read_facts
from zoo.heads import LabelHead, SequenceHead, TokenHead, build_head, chosen_state, new_sequence_head
from zoo.init import initial_of
from zoo.inputs import CoreInputs, CoreOutput, SecondStream, Visibility
from zoo.vocabulary import Template
from zoo.weights.convert import read_checkpoint, write_checkpoint
from zoo.weights.files import find_folder, open_checkpoint, special_tokens, token_ids

_Forward = TypeVar("_Forward", bound=Callable[..., Any])
# Names of new heads. PEFT trains what ends in "classifier" or "qa_outputs" in full, beside its adapters.
_NAMES = {
    "token": "token_lm",
    "classification": "classifier",
    "tagging": "token_classifier",
    "span": "qa_outputs",
    "choice": "choice_classifier",
}


def can_return_tuple(forward: _Forward) -> _Forward:
    """Transformers' decorator for ``return_dict``, with its type kept."""
    decorated: _Forward = untyped_can_return_tuple(forward)
    return decorated


class ZooConfig(PretrainedConfig):
    """A model folder's facts as transformers' configuration.

    Every fact of :class:`zoo.config.CoreConfig` (``hidden_size``, ``vocab_size``, ...) can be read and set as an
    attribute; all of them live in ``core``.

    Args:
        core: facts of the core.
        visibility: ``all`` or ``causal``.
        template: layout of texts, and pooling.
        heads: facts of each head by name.
        origin: ``model_type`` of the checkpoint that the weights came from.
        zoo_version: version that wrote the folder.
        mask_token_id: what stands for a token to be predicted; like the next two, the tokenizer's where it is not said.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    core: dict[str, Any] | None = None
    visibility: str = "all"
    template: dict[str, Any] | None = None
    heads: dict[str, Any] | None = None
    origin: str | None = None
    zoo_version: str | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Facts first, so that what follows can set them by name; labels come from the head that has them."""
        self.core = {**CoreConfig().to_dict(), **(self.core or {})}
        self.template, self.heads = self.template or Template().to_dict(), self.heads or {}
        labels = next((head["labels"] for head in self.heads.values() if head.get("labels")), None)
        counted = [h["num_labels"] for h in self.heads.values() if h["kind"] in ("classification", "tagging")]
        if getattr(self, "id2label", None) is None and "num_labels" not in kwargs and counted:
            labels = labels or [f"LABEL_{i}" for i in range(counted[0])]
            self.id2label = dict(enumerate(labels))
            self.label2id = {label: i for i, label in enumerate(labels)}
        if kwargs.get("name_or_path") and Path(str(kwargs["name_or_path"])).is_dir():
            self.read_special_ids(Path(str(kwargs["name_or_path"])))
        super().__post_init__(**kwargs)

    def read_special_ids(self, folder: Path) -> None:
        """Ids that ``config.json`` leaves open, from the tokenizer: rows open with ``cls`` and end with ``sep``."""
        names, (ids, _) = special_tokens(folder), token_ids(folder)
        if self.mask_token_id is None:
            self.mask_token_id = ids.get(names.get("mask", ""))
        if self.bos_token_id is None:
            self.bos_token_id = ids.get(names.get("bos") or names.get("cls", ""))
        if self.eos_token_id is None:
            self.eos_token_id = ids.get(names.get("eos") or names.get("sep", ""))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers; the folder's name is handed on, since its tokenizer is looked at."""
        named = {"name_or_path": pretrained_model_name_or_path, **kwargs}
        return super().from_pretrained(pretrained_model_name_or_path, **named)

    @property
    def head_dim(self) -> int:
        """Width of an attention head, which caches ask for."""
        return CoreConfig.from_dict(self.core or {}).head_width

    @classmethod
    def of(cls, facts: ModelFacts) -> ZooConfig:
        """The configuration of a model folder."""
        return cls(**{key: value for key, value in facts.to_dict().items() if key != "model_type"})

    def facts(self) -> ModelFacts:
        """The facts of a model folder, checked."""
        return facts_from_dict(self.to_dict() | {"core": self.core}, Path(self.name_or_path or ""))


def _fact(name: str) -> property:
    def read(config: ZooConfig) -> Any:
        value = (config.core or {})[name]
        return (config.core or {})["num_attention_heads"] if name == "num_key_value_heads" and value is None else value

    def write(config: ZooConfig, value: Any) -> None:
        assert config.core is not None
        config.core[name] = value

    return property(read, write)


for _field in dataclasses.fields(CoreConfig):
    setattr(ZooConfig, _field.name, _fact(_field.name))


class ZooPreTrainedModel(PreTrainedModel):
    """A core, and those heads of the configuration that the class reads.

    A class takes the first head of each of its ``kinds``; one with a single kind makes a new head where there is none,
    which transformers reports.

    Attributes:
        kinds: kinds of the heads it reads.
        visibility_needed: how tokens must see each other for its head to make sense; ``None`` = either way.
        asks_second_stream: at masked positions its token head reads the second stream, where the core has one.
    """

    config_class = ZooConfig
    config: ZooConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Embeddings", "Layer"]
    # Heads that the class does not read, and what objectives own beside their heads.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^heads\.", r"^objectives\."]

    # Whether the loss is divided by Trainer's count over an accumulation window; else Trainer divides by its steps.
    accepts_loss_kwargs: ClassVar[bool] = False

    kinds: ClassVar[tuple[str, ...]] = ()
    visibility_needed: ClassVar[str | None] = None
    asks_second_stream: ClassVar[bool] = False

    def __init__(self, config: ZooConfig) -> None:
        config = copy.deepcopy(config)
        facts = config.facts()
        self._check_visibility(config.visibility)
        config.heads = self._choose_heads(config, facts)
        super().__init__(config)
        self.core = make_core(facts.config)
        self.heads = nn.ModuleDict({name: build_head(facts.config, head) for name, head in config.heads.items()})
        self.post_init()

    def _check_visibility(self, visibility: str) -> None:
        if self.visibility_needed not in (None, visibility):
            other = "AutoModelForMaskedLM" if visibility == "all" else "AutoModelForCausalLM"
            raise ZooError(
                f"{type(self).__name__} needs a model whose tokens see {self.visibility_needed!r}, and this one was "
                f"trained with {visibility!r}: open it with {other}, or go on with its weights all the same by saying "
                f"visibility={self.visibility_needed!r}."
            )

    def _choose_heads(self, config: ZooConfig, facts: ModelFacts) -> dict[str, dict[str, Any]]:
        """The heads that this class reads, those that are missing made up."""
        first = {head["kind"]: name for name, head in reversed(facts.heads.items()) if head["kind"] in self.kinds}
        found = {name: head for name, head in facts.heads.items() if name in first.values()}
        halves = [name for name, head in found.items() if head.get("half") and facts.visibility == "all"]
        if halves:
            raise ZooError(
                f"head {halves[0]} predicts each token's neighbours, every direction from its own half of the states; "
                "transformers has no such class. Open the states with AutoModel, or score sentences with `zoo score`."
            )
        if len(self.kinds) != 1:
            return found
        (kind,) = self.kinds
        networks = [name for name, head in facts.heads.items() if head["kind"] == "features"]
        if kind == "classification" and networks and not found:
            raise ZooError(
                f"head {networks[0]} is a task network on frozen layers, which reads each text by itself; transformers "
                "has no such class. Ask it with finetune.saved.open_features(FOLDER), or open the core with AutoModel."
            )
        name, head = next(iter(found.items()), (_NAMES.get(kind, kind), self._new_head(config, facts)))
        if kind in ("classification", "tagging") and head["num_labels"] != config.num_labels:
            head = {**head, "num_labels": config.num_labels}
        labels = [config.id2label[i] for i in range(config.num_labels)]
        if kind in ("classification", "tagging") and labels != [f"LABEL_{i}" for i in range(config.num_labels)]:
            head = {**head, "labels": labels}
        return {name: head}

    def _new_head(self, config: ZooConfig, facts: ModelFacts) -> dict[str, Any]:
        """Facts of a head that the folder lacks, as fine-tuning would make it."""
        (kind,) = self.kinds
        if kind == "token":
            masked = facts.visibility == "all"
            return {"kind": kind, "transform": masked, "bias": masked}
        if kind in ("tagging", "span"):
            return {"kind": kind, "num_labels": config.num_labels if kind == "tagging" else 2, "dense": "none"}
        labels = 1 if kind == "choice" else config.num_labels
        return {
            "kind": kind,
            "num_labels": labels,
            **new_sequence_head(facts.config, facts.template.pooling, facts.visibility),
        }

    @property
    def head(self) -> Any:
        """The head of a class that reads one."""
        return next(iter(self.heads.values()))

    # ---- what transformers asks of every model ----------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.core.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Another token embedding; tied heads follow, since they read it from the core."""
        assert isinstance(value, nn.Embedding)
        self.core.embeddings.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module | None:
        """The output matrix where it is a module of its own; a tied head reads the token embedding itself."""
        return next((h.decoder for h in self.heads.values() if isinstance(h, TokenHead)), None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Another output matrix."""
        for head in self.heads.values():
            if isinstance(head, TokenHead):
                assert isinstance(new_embeddings, nn.Linear)
                head.decoder = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers; the token heads' biases and the core's facts follow.

        Raises:
            ZooError: tokens are spelt, so that new ones need a spelling.
        """
        size = args[0] if args else kwargs.get("new_num_tokens")
        if self.core.spells and size is not None:
            self.core.resize_token_embeddings(size, 0)  # says why not
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        size = embeddings.weight.shape[0]
        for head in self.heads.values():
            if isinstance(head, TokenHead) and head.bias is not None:
                grown = functional.pad(head.bias.data[:size], (0, max(0, size - len(head.bias))))
                head.bias = nn.Parameter(grown)
        self.core.config = self.core.embeddings.config = self.core.config.replace(vocab_size=size)
        return embeddings

    def _init_weights(self, module: nn.Module) -> None:
        """By the rules of :func:`zoo.init.initialise`, but drawn from torch's generator."""
        config = CoreConfig.from_dict(self.config.core or {})
        for name, parameter in module.named_parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                with torch.no_grad():
                    initial_of(module, name, config)(parameter, None)
        if isinstance(module, Embeddings) and hasattr(module, "sinusoids"):  # rebuilt, never in a file
            hf_init.copy_(module.sinusoids, _sinusoids(module))

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which calls it last when a model is made and when it is loaded.

        What this class never reads is frozen then: it stays in the model's files, and no process of data-parallel
        training waits for its gradient.
        """
        super().tie_weights(*args, **kwargs)
        relative = getattr(self.core, "relative", None)
        pooled = not self.kinds or any(getattr(head, "reads_pooler", False) for head in self.heads.values())
        if self.core.pooler is not None and not pooled:
            self.core.pooler.requires_grad_(False)
        if relative is not None and relative.start is not None and not self._may_ask:
            relative.start.requires_grad_(False)

    # ---- the forward pass -------------------------------------------------------------------------------------------

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        task_type_ids: Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        inputs_embeds: Tensor | None = None,
        character_ids: Tensor | None = None,
        **unused: Any,
    ) -> CoreOutput:
        """Run the core on transformers' arguments.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), or (B, past + L) beside a cache: 1 = a real token, padding at either side.
            token_type_ids: (B, L) segments.
            position_ids: (B, L); absent = from 0 on, or from the cache's end.
            task_type_ids: (B, L) or (B,) tasks.
            past_key_values: transformers' cache, which the core takes as it is.
            output_attentions: give back the probabilities.
            output_hidden_states: give back every layer's states.
            inputs_embeds: refused; the core reads ids.
            character_ids: (B, L, C) of words, for a core that reads characters, beside ids of the same shape: words
                that the tokenizer lacks are unknown to it otherwise (:func:`zoo.characters.character_ids`).
            unused: arguments that transformers hands to every model.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ZooError("models of the zoo read input_ids; inputs_embeds are not taken.")
        if isinstance(past_key_values, StaticCache):
            raise ZooError("static caches are not read; leave cache_implementation away, which means a growing one.")
        keys = None
        if self.training:  # one key a row: masks follow torch's seed, and are drawn again alike when recomputed
            keys = torch.randint(-(2**31), 2**31 - 1, (len(input_ids),), dtype=torch.int32, device=input_ids.device)
            if token_type_ids is None and self.core.config.relative_segments:
                token_type_ids = torch.zeros_like(input_ids)  # changes nothing, and gives their keys a gradient, of 0
        self.core.eager_attention = self.config._attn_implementation == "eager"
        inputs = CoreInputs(
            input_ids=input_ids,
            visible=self._visible(attention_mask),
            token_type_ids=token_type_ids,
            task_type_ids=task_type_ids,
            position_ids=position_ids,
            dropout_keys=keys,
            character_ids=character_ids,
        )
        wants = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attends = self.config.output_attentions if output_attentions is None else output_attentions
        # A recurrent core keeps no keys: the cache stays empty, so generation hands in the whole text each time.
        cache = past_key_values if self.core.config.recurrent is None else None
        asked = self._asked(input_ids)
        if asked is None:
            output: CoreOutput = self.core(inputs, cache, bool(wants), bool(attends))
            return output
        positions = asked.int().argsort(dim=1, descending=True, stable=True)[:, : int(asked.sum(1).max())]
        visible = inputs.visible._replace(orders=asked.int())  # nobody else sees them, and they see all others
        query = SecondStream(positions, visible)
        output = self.core(inputs._replace(visible=visible, query=query), None, bool(wants), bool(attends))
        return _first_stream(output, asked, positions)

    @property
    def _may_ask(self) -> bool:
        """Whether this model can ask a second stream of states at all."""
        token = any(isinstance(head, TokenHead) for head in self.heads.values())
        return self.asks_second_stream and token and self.core.config.query_stream and self.config.visibility == "all"

    def _asked(self, input_ids: Tensor) -> Tensor | None:
        """(B, L) positions that are asked of the core's second stream: those masked; ``None`` = there are none.

        Such a core has never read a mask (permutation language models, :mod:`pretraining.objectives.permutation`): it
        predicts from states that start at a position without its token. Several masked tokens of a row are predicted
        independently of each other.
        """
        mask = self.config.mask_token_id
        if mask is None or not self._may_ask:
            return None
        asked = input_ids == mask
        return asked if bool(asked.any()) else None

    def _visible(self, mask: Tensor | None) -> Visibility:
        """A mask over keys as visibility; a recurrent core wants lengths, and so padding at the right."""
        if self.core.config.recurrent is None or mask is None:
            return Visibility(causal=self.config.visibility == "causal", dense=_dense(mask))
        lengths = mask.sum(1)
        if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device)[None] < lengths[:, None]):
            raise ZooError("a recurrent core reads rows from end to end: padding stands at the right of a row only.")
        return Visibility(causal=self.config.visibility == "causal", lengths=lengths)

    def sequence_scores(self, output: CoreOutput, attention_mask: Tensor | None) -> Tensor:
        """(B, labels) scores of the state that the head reads: pooled, first, or last real one."""
        if self.head.reads_pooler:
            return self.head(output.pooler_output)
        hidden, last = output.last_hidden_state, None
        if attention_mask is not None:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (places * attention_mask.to(hidden.device)).argmax(-1)  # the last 1, wherever the padding is
        return self.head(chosen_state(hidden, self.config.facts().template.pooling, last))

    def token_scores(self, head: TokenHead, hidden: Tensor) -> Tensor:
        """(..., W) states -> (..., V)."""
        return head(hidden, self.core.token_embedding)


def _first_stream(output: CoreOutput, asked: Tensor, positions: Tensor) -> CoreOutput:
    """The output with the second stream's states in the places that they were asked for.

    Args:
        output: of both streams.
        asked: (B, L) the places.
        positions: (B, T) where each state of the second stream stands; some stand where nothing was asked.
    """
    length, states = asked.shape[1], output.query_states
    assert states is not None
    row, slot = asked.gather(1, positions).nonzero(as_tuple=True)
    place = (row, positions[row, slot])
    return output._replace(
        last_hidden_state=output.last_hidden_state.index_put(place, states[row, slot]),
        hidden_states=None
        if output.hidden_states is None
        else tuple(both[:, :length].index_put(place, both[:, length:][row, slot]) for both in output.hidden_states),
        attentions=None
        if output.attentions is None
        else tuple(
            both[:, :, :length]
            .transpose(1, 2)
            .index_put(place, both[:, :, length:].transpose(1, 2)[row, slot])
            .transpose(1, 2)
            for both in output.attentions
        ),
    )


def _sinusoids(embeddings: Embeddings) -> Tensor:
    return sinusoids(embeddings.config.max_position_embeddings, embeddings.config.embedding_width)


def _dense(mask: Tensor | None) -> Tensor | None:
    """A mask over keys as visibility; ``None`` where everything is real (looked up on a CPU only: it costs a wait)."""
    if mask is None:
        return None
    if mask.ndim != 2:
        raise ZooError(
            f"attention_mask has {mask.ndim} axes; (batch, tokens) is read, causality follows from the model."
        )
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return mask.bool()[:, None, :]


def _cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Mean over labels other than -100, or their sum over a given global count."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1).to(logits.device)
    if count is None:
        return functional.cross_entropy(flat, wanted)
    total = functional.cross_entropy(flat, wanted, reduction="sum")
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


class ZooModel(ZooPreTrainedModel):
    """The core alone."""

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """States of every position; arguments as in :meth:`ZooPreTrainedModel.encode`."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=output.last_hidden_state,
            pooler_output=output.pooler_output,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            past_key_values=kwargs.get("past_key_values"),
        )


class ZooForMaskedLM(ZooPreTrainedModel):
    """Hidden tokens from both sides."""

    kinds = ("token",)
    visibility_needed = "all"
    asks_second_stream = True
    accepts_loss_kwargs = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, V) logits, and the loss where ``labels`` (B, L) are given; -100 = not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.token_scores(self.head, output.last_hidden_state)
        loss = None if labels is None else _cross_entropy(logits, labels, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForCausalLM(ZooPreTrainedModel, GenerationMixin):
    """The next token, with a cache for generation."""

    kinds = ("token",)
    visibility_needed = "causal"
    accepts_loss_kwargs = True

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which reads ``config.json`` anew here; ids that it does not state follow."""
        super().adjust_generation_fn(*args, **kwargs)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config, name))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, V) logits, of the last ``logits_to_keep`` positions only where asked; ``labels`` are shifted here."""
        wants = self.config.use_cache if use_cache is None else use_cache
        recomputed = self.core.gradient_checkpointing and torch.is_grad_enabled()  # it would be filled twice
        if wants and past_key_values is None and not self.training and not recomputed:
            past_key_values = DynamicCache()
        output = self.encode(
            input_ids, attention_mask, position_ids=position_ids, past_key_values=past_key_values, **kwargs
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.token_scores(self.head, output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = _cross_entropy(logits[:, :-1], labels[:, 1:], num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


@dataclasses.dataclass
class ZooForPreTrainingOutput(ModelOutput):
    """What :class:`ZooForPreTraining` gives back.

    Args:
        loss: sum of the losses whose labels were given.
        prediction_logits: (B, L, V) of the token head.
        pair_logits: (B, 2) of the pair head.
        replaced_logits: (B, L) of the replaced-token head.
        hidden_states: every layer's states.
        attentions: every layer's probabilities.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    pair_logits: Tensor | None = None
    replaced_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ZooForPreTraining(ZooPreTrainedModel):
    """The heads that a run trained: the first that predicts tokens, judges pairs, or finds replaced tokens."""

    kinds = ("token", "pair", "replaced")
    asks_second_stream = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pair_label: Tensor | None = None,
        replaced_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits of every head.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L).
            labels: (B, L) ids for the token head, shifted here for a causal model; -100 = not asked.
            pair_label: (B,) for the pair head.
            replaced_labels: (B, L) 0 or 1 for the replaced-token head; -100 = not asked.
            kwargs: as in :meth:`ZooPreTrainedModel.encode`.
        """
        output = self.encode(input_ids, attention_mask, **kwargs)
        found: dict[str, Tensor] = {}
        for head in self.heads.values():
            if isinstance(head, TokenHead):
                found["prediction_logits"] = self.token_scores(head, output.last_hidden_state)
            elif isinstance(head, SequenceHead):
                found["pair_logits"] = head(output.pooler_output)
            elif isinstance(head, LabelHead):
                found["replaced_logits"] = head(output.last_hidden_state).squeeze(-1)
        asked_for = {"prediction_logits": labels, "pair_logits": pair_label, "replaced_logits": replaced_labels}
        lacking = [name for name, wanted in asked_for.items() if wanted is not None and name not in found]
        if lacking:
            raise ZooError(f"labels were given for {', '.join(lacking)}, and this model's heads make only {[*found]}.")
        losses = []
        if labels is not None:
            shift = self.config.visibility == "causal"
            logits = found["prediction_logits"][:, :-1] if shift else found["prediction_logits"]
            losses.append(_cross_entropy(logits, labels[:, 1:] if shift else labels))
        if pair_label is not None:
            losses.append(_cross_entropy(found["pair_logits"], pair_label))
        if replaced_labels is not None:
            asked = replaced_labels != -100
            logits = found["replaced_logits"][asked].float()
            losses.append(functional.binary_cross_entropy_with_logits(logits, replaced_labels[asked].float()))
        return ZooForPreTrainingOutput(
            loss=torch.stack(losses).sum() if losses else None,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **found,
        )


class ZooForSequenceClassification(ZooPreTrainedModel):
    """The class of a text or pair; regression where there is one label."""

    kinds = ("classification",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, num_labels) logits; ``labels`` are (B,) classes, or (B, num_labels) values or truths of each label."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.sequence_scores(output, attention_mask)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By the config's ``problem_type``; where it names none, by the number of labels and their type."""
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem = self.config.problem_type or ("regression" if self.config.num_labels == 1 else several)
        if problem == "regression":
            return functional.mse_loss(logits.reshape(labels.shape), labels.float())
        if problem == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, labels.float())
        return _cross_entropy(logits, labels)


class ZooForMultipleChoice(ZooPreTrainedModel):
    """The best of several continuations."""

    kinds = ("choice",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, choices, L) ids -> (B, choices) logits; ``labels`` (B,) number of the right one."""
        assert input_ids is not None
        choices = input_ids.shape[1]
        flat = [None if x is None else x.flatten(0, 1) for x in (input_ids, attention_mask, token_type_ids)]
        output = self.encode(flat[0], flat[1], flat[2], **kwargs)
        logits = self.sequence_scores(output, flat[1]).view(-1, choices)
        loss = None if labels is None else _cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForTokenClassification(ZooPreTrainedModel):
    """The class of every token."""

    kinds = ("tagging",)
    accepts_loss_kwargs = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L, num_labels) logits; ``labels`` (B, L), -100 = not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.head(output.last_hidden_state)
        loss = None if labels is None else _cross_entropy(logits, labels, num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class ZooForQuestionAnswering(ZooPreTrainedModel):
    """Start and end of an answer."""

    kinds = ("span",)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """(B, L) logits of start and end; positions (B,) beyond the row are not asked."""
        output = self.encode(input_ids, attention_mask, **kwargs)
        start, end = self.head(output.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            length, losses = start.shape[1], []
            for logits, wanted in ((start, start_positions), (end, end_positions)):
                wanted = wanted.reshape(-1).clamp(0, length)
                losses.append(functional.cross_entropy(logits.float(), wanted, ignore_index=length))
            loss = torch.stack(losses).mean()
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


_AUTO: dict[Any, type[ZooPreTrainedModel]] = {
    AutoModel: ZooModel,
    AutoModelForMaskedLM: ZooForMaskedLM,
    AutoModelForCausalLM: ZooForCausalLM,
    AutoModelForPreTraining: ZooForPreTraining,
    AutoModelForSequenceClassification: ZooForSequenceClassification,
    AutoModelForTokenClassification: ZooForTokenClassification,
    AutoModelForQuestionAnswering: ZooForQuestionAnswering,
    AutoModelForMultipleChoice: ZooForMultipleChoice,
}
AutoConfig.register(MODEL_TYPE, ZooConfig)
for _auto, _own in _AUTO.items():
    _auto.register(ZooConfig, _own)


def auto_class(facts: ModelFacts) -> type[ZooPreTrainedModel]:
    """The class that reads most of a model's heads."""
    two_way = facts.visibility == "all"  # a half of the states then means one direction, which has no class
    kinds = {head["kind"] for head in facts.heads.values() if not (two_way and head.get("half"))}
    classes: dict[str, type[ZooPreTrainedModel]] = {
        "classification": ZooForSequenceClassification,
        "tagging": ZooForTokenClassification,
        "span": ZooForQuestionAnswering,
        "choice": ZooForMultipleChoice,
    }
    for kind, own in classes.items():
        if kind in kinds:
            return own
    if kinds & {"pair", "replaced"}:
        return ZooForPreTraining
    if "token" in kinds:
        return ZooForCausalLM if facts.visibility == "causal" else ZooForMaskedLM
    return ZooModel


def from_folder(path: str | Path) -> ZooPreTrainedModel:
    """The model of a folder of the zoo, as the class that reads most of its heads.

    Args:
        path: a run folder, or what ``save_pretrained`` wrote.

    Raises:
        ZooError: not a model folder of the zoo.
    """
    model: ZooPreTrainedModel = auto_class(read_facts(path)).from_pretrained(path)
    return model


def from_transformers(source: str | Path | PreTrainedModel) -> ZooPreTrainedModel:
    """A stock model, a folder or a hub id as a model of the zoo, with the same weights.

    Args:
        source: the model, or where it is.

    Raises:
        ZooError: no weight table stands for it, or its weights are not what its config says.
    """
    specials: Mapping[str, str] = {}
    folder: Path | None = None
    if isinstance(source, PreTrainedModel):
        config = {**source.config.to_dict(), "architectures": [type(source).__name__]}
        tensors: Mapping[str, Tensor] = source.state_dict()
    else:
        folder = find_folder(str(source))
        config, specials = read_json(folder / "config.json"), special_tokens(folder)
        if config.get("model_type") == MODEL_TYPE:
            return from_folder(folder)
        tensors = open_checkpoint(folder)
    found = read_checkpoint(config, tensors, specials)
    own = ZooConfig.of(found.facts)
    if folder is not None:
        own.read_special_ids(folder)
    with torch.device("meta"):
        model = auto_class(found.facts)(own)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in found.tensors.items()}
    return _filled(model, state)


def to_transformers(model: ZooPreTrainedModel, family: str | None = None) -> PreTrainedModel:
    """A model of the zoo as the stock class that expresses it, with the same weights.

    Args:
        model: a model of this file.
        family: ``model_type`` wanted; ``None`` = where the weights came from, or the first that can say the model.

    Raises:
        ZooError: no stock class can; names the facts in the way.
    """
    checkpoint = write_checkpoint(model.config.facts(), model.state_dict(), family)
    config = dict(checkpoint.config)
    (architecture,) = config.pop("architectures")
    ids = {
        k: getattr(model.config, k) for k in ("bos_token_id", "eos_token_id") if getattr(model.config, k) is not None
    }
    stock_config = AutoConfig.for_model(**{"bos_token_id": None, "eos_token_id": None, **config, **ids})
    stock: PreTrainedModel = getattr(transformers, architecture)(stock_config)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    told = stock.load_state_dict(state, strict=False)
    wrong = [n for n in told.missing_keys if n not in stock.all_tied_weights_keys and "position_ids" not in n]
    wrong += told.unexpected_keys
    if wrong:
        raise ZooError(f"{architecture} of this transformers version has other tensors: {', '.join(wrong[:6])}.")
    return stock.to(next(iter(state.values())).dtype).eval()


def _filled(model: ZooPreTrainedModel, state: dict[str, Tensor]) -> ZooPreTrainedModel:
    """A model made on the meta device with its tensors put in, and what is never in a file rebuilt."""
    model.load_state_dict(state, assign=True)
    embeddings = model.core.embeddings
    if hasattr(embeddings, "sinusoids"):
        embeddings.sinusoids = _sinusoids(embeddings)
    return model.eval()
