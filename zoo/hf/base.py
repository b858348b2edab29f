"""What all models of the zoo share in transformers: a core with heads, its forward pass, masks and losses."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, StaticCache
from transformers import initialization as hf_init

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.embeddings import PositionedEmbeddings
from zoo.core.init import initial_of
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.sequence_head import new_sequence_head, pooled_state
from zoo.heads.token_heads import TokenHead
from zoo.hf.config import ZooConfig
from zoo.hf.inputs import (
    check_all_read,
    dense_mask,
    joined_streams,
    make_recomputable,
    real_tokens,
    second_stream,
    with_order,
)
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput, DecoderInputs, QueryStream
from zoo.model_folder import ModelMetadata

# Names of new heads. PEFT trains what ends in "classifier" or "qa_outputs" in full, beside its adapters.
_NAMES = {
    "token": "token_lm",
    "classification": "classifier",
    "tagging": "token_classifier",
    "span": "qa_outputs",
    "choice": "choice_classifier",
}


class ZooPreTrainedModel(PreTrainedModel):
    """A core, and those heads of the configuration that the class reads.

    A class takes the first head of each of its ``kinds``; one with a single kind makes a new head where there is none,
    which transformers reports.

    Attributes:
        kinds: kinds of the heads it reads.
        attention_needed: attention for which its head makes sense, ``bidirectional`` or ``causal``; ``None`` = either.
        asks_second_stream: at masked positions its token head reads the second stream, where the core has one.
        base_class: the class of the core alone.
        decodes: it reads a target beside the source; ``None`` = any core will do, and a decoder reads the row, too.
    """

    config_class = ZooConfig
    config: ZooConfig
    base_model_prefix = "core"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Embeddings", "RecomputableLayer", "RecomputableDecoderLayer"]
    # Heads that the class does not read, and what objectives own beside their heads.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^heads\.", r"^objectives\."]

    # Whether the loss is divided by Trainer's count over an accumulation window; else Trainer divides by its steps.
    accepts_loss_kwargs: ClassVar[bool] = False

    kinds: ClassVar[tuple[str, ...]] = ()
    attention_needed: ClassVar[str | None] = None
    asks_second_stream: ClassVar[bool] = False
    decodes: ClassVar[bool | None] = False
    base_class: ClassVar[Any]
    _shares_core = False  # a second model around the core of another, which alone fills and freezes it

    def __init__(self, config: ZooConfig) -> None:
        config = copy.deepcopy(config)
        metadata = config.metadata()
        self._check_attention(config.attention, metadata.config.decoder)
        config.heads = self._choose_heads(config, metadata)
        super().__init__(config)
        self.core = make_core(metadata.config)
        make_recomputable(self.core)
        self.heads = nn.ModuleDict({name: build_head(metadata.config, head) for name, head in config.heads.items()})
        self.post_init()

    def _check_attention(self, attention: str, decoder: Any) -> None:
        if self.kinds and self.decodes is not None and (decoder is not None) != self.decodes:
            which = (
                "without a decoder (model.decoder)" if self.decodes else "with one: open it with AutoModelForSeq2SeqLM"
            )
            raise ZooError(f"{type(self).__name__} does not suit this core, which is {which}.")
        if self.attention_needed not in (None, attention):
            other = "AutoModelForMaskedLM" if attention == "bidirectional" else "AutoModelForCausalLM"
            raise ZooError(
                f"{type(self).__name__} needs a model with {self.attention_needed} attention, and this one was trained "
                f"with {attention} attention: open it with {other}, or go on with its weights all the same by saying "
                f"attention={self.attention_needed!r}."
            )

    def _choose_heads(self, config: ZooConfig, metadata: ModelMetadata) -> dict[str, dict[str, Any]]:
        """The heads that this class reads, those that are missing made up."""
        first = {head["kind"]: name for name, head in reversed(metadata.heads.items()) if head["kind"] in self.kinds}
        found = {name: head for name, head in metadata.heads.items() if name in first.values()}
        halves = [name for name, head in found.items() if head.get("half") and metadata.attention == "bidirectional"]
        if halves:
            raise ZooError(
                f"head {halves[0]} predicts each token's neighbours, every direction from its own half of the states; "
                "transformers has no such class. Open the states with AutoModel, or score sentences with `zoo score`."
            )
        if len(self.kinds) != 1:
            return found
        (kind,) = self.kinds
        networks = [name for name, head in metadata.heads.items() if head["kind"] == "features"]
        if kind == "classification" and networks and not found:
            raise ZooError(
                f"head {networks[0]} is a task network on frozen layers, which reads each text by itself; transformers "
                "has no such class. Ask it with `zoo predict` or finetune.training.saved.open_saved(FOLDER), or open "
                "the core with AutoModel."
            )
        name, head = next(iter(found.items()), (_NAMES.get(kind, kind), self._new_head(config, metadata)))
        if kind in ("classification", "tagging") and head["num_labels"] != config.num_labels:
            head = {**head, "num_labels": config.num_labels}
        labels = [config.id2label[i] for i in range(config.num_labels)]
        if kind in ("classification", "tagging") and labels != [f"LABEL_{i}" for i in range(config.num_labels)]:
            head = {**head, "labels": labels}
        return {name: head}

    def _new_head(self, config: ZooConfig, metadata: ModelMetadata) -> dict[str, Any]:
        """Config of a head that the folder lacks, as fine-tuning would make it."""
        (kind,) = self.kinds
        if kind == "token":
            masked = metadata.attention == "bidirectional"
            return {"kind": kind, "transform": masked, "bias": masked}
        if kind in ("tagging", "span"):
            return {"kind": kind, "num_labels": config.num_labels if kind == "tagging" else 2, "dense": "none"}
        labels = 1 if kind == "choice" else config.num_labels
        return {
            "kind": kind,
            "num_labels": labels,
            **new_sequence_head(metadata.config, metadata.template.pooling, metadata.attention),
        }

    @property
    def head(self) -> Any:
        """The head of a class that reads one."""
        return next(iter(self.heads.values()))

    # ---- what transformers asks of every model ----------------------------------------------------------------------

    @property
    def base_model(self) -> ZooPreTrainedModel:
        """The core as a model of its own. It shares the weights: what freezes or trains it leaves the heads alone."""
        if not self.kinds:
            return self
        base: ZooPreTrainedModel | None = self.__dict__.get("_base_model")
        if base is None:
            base = self.base_class.__new__(self.base_class)
            config = copy.deepcopy(self.config)
            config.heads = {}
            PreTrainedModel.__init__(base, config)
            base._shares_core, base.core, base.heads = True, self.core, nn.ModuleDict()
            base.post_init()
            self.__dict__["_base_model"] = base  # no part of this model, which has the core already
        base.core, base.training = self.core, self.core.training
        return base

    def init_weights(self) -> None:
        """As in transformers."""
        if not self._shares_core:
            super().init_weights()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **options: Any
    ) -> None:
        """As in transformers, but never with reentrant autograd, which loses the gradients of what layers share."""
        if isinstance(gradient_checkpointing_func, functools.partial):
            given = {**gradient_checkpointing_func.keywords, "use_reentrant": False}
            gradient_checkpointing_func = functools.partial(gradient_checkpointing_func.func, **given)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **options)

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
        """As in transformers; the token heads' biases and the core's config follow.

        Raises:
            ZooError: tokens are read by their characters, so that new ones need theirs.
        """
        size = args[0] if args else kwargs.get("new_num_tokens")
        if self.core.reads_characters and size is not None:
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
        """By the rules of :func:`zoo.core.init.initialise`, but drawn from torch's generator."""
        config = CoreConfig.from_dict(self.config.core or {})
        for name, parameter in module.named_parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                with torch.no_grad():
                    initial_of(module, name, config)(parameter, None)
        if isinstance(module, PositionedEmbeddings) and hasattr(module, "sinusoids"):  # rebuilt, never in a file
            hf_init.copy_(module.sinusoids, module.make_sinusoids())

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which calls it last when a model is made and when it is loaded.

        What this class never reads is frozen then: it stays in the model's files, and no process of data-parallel
        training waits for its gradient.
        """
        super().tie_weights(*args, **kwargs)
        if self._shares_core:
            return
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
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        input_mask: Tensor | None = None,
        decoder: DecoderInputs | None = None,
        **more: Any,
    ) -> CoreOutput:
        """Run the core on transformers' arguments.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), or (B, past + L) beside a cache: 1 = a real token, padding at either side.
            token_type_ids: (B, L) segments.
            position_ids: (B, L); absent = from 0 on, or from the cache's end.
            task_type_ids: (B, L) or (B,) tasks.
            past_key_values: transformers' cache, which the core takes as it is; a decoder's state of generation.
            output_attentions: give back the probabilities.
            output_hidden_states: give back every layer's states.
            inputs_embeds: an error; the core reads ids.
            character_ids: (B, L, C) of words, for a core that reads characters, beside ids of the same shape: words
                that the tokenizer lacks are unknown to it otherwise (:func:`zoo.core.characters.character_ids`).
            perm_mask: (B, L, L) 1 = the first does not attend to the second (:func:`zoo.hf.inputs.with_order`),
                for a core with two streams, as the next two.
            target_mapping: (B, T, L) positions that are asked for; the states are then those of these, (B, T, W).
            input_mask: (B, L) 1 = padding, instead of ``attention_mask``.
            decoder: the target side; where its state has the source's states, ``input_ids`` may be absent.
            more: an error, unless it is nothing or says what holds anyway.
        """
        if input_ids is None and decoder is not None and past_key_values is not None:
            input_ids = decoder.input_ids  # stands for a source that is not read again
        if input_ids is None or inputs_embeds is not None:
            raise ZooError("models of the zoo read input_ids; inputs_embeds are not taken.")
        if isinstance(past_key_values, StaticCache):
            raise ZooError("static caches are not read; leave cache_implementation away, which means a growing one.")
        some = {"token_type_ids": token_type_ids, "task_type_ids": task_type_ids, "position_ids": position_ids, **more}
        check_all_read(type(self).__name__, self.core.config, self.config.attention, some)
        ordered = {"perm_mask": perm_mask, "target_mapping": target_mapping, "input_mask": input_mask}
        if given := [name for name, value in ordered.items() if value is not None]:
            self._check_order(given, past_key_values)
        attention_mask = real_tokens(attention_mask, input_mask)
        keys = None
        if self.training:  # one key a row: masks follow torch's seed, and are drawn again alike when recomputed
            keys = torch.randint(-(2**31), 2**31 - 1, (len(input_ids),), dtype=torch.int32, device=input_ids.device)
            if token_type_ids is None and self.core.config.relative_segments:
                token_type_ids = torch.zeros_like(input_ids)  # changes nothing, and gives their keys a gradient, of 0
        self.core.eager_attention = self.config._attn_implementation == "eager"
        inputs = CoreInputs(
            input_ids=input_ids,
            attention_pattern=self._attention_pattern(attention_mask),
            token_type_ids=token_type_ids,
            task_type_ids=task_type_ids,
            position_ids=position_ids,
            dropout_keys=keys,
            character_ids=character_ids,
            decoder=decoder,
        )
        wants = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attends = self.config.output_attentions if output_attentions is None else output_attentions
        # A recurrent core keeps no keys: the cache stays empty, so generation hands in the whole text each time.
        cache = past_key_values if self.core.config.recurrent is None or decoder is not None else None
        if perm_mask is not None or target_mapping is not None:
            inputs = with_order(inputs, attention_mask, perm_mask, target_mapping)
            output = self.core(inputs, None, bool(wants), bool(attends))
            return output if target_mapping is None else second_stream(output, input_ids.shape[1])
        asked = self._asked(input_ids)
        if asked is None:
            return self.core(inputs, cache, bool(wants), bool(attends))
        return self._ask(inputs, asked, bool(wants), bool(attends))

    def _check_order(self, given: list[str], past: Any) -> None:
        """Only a core with two streams reads orders of prediction, and only where states of tokens are asked for."""
        streams = self.core.config.query_stream and self.config.attention == "bidirectional"
        if not streams or past is not None:
            why = "it has no second stream" if not streams else "not beside a cache"
            raise ZooError(
                f"this model does not read {', '.join(given)}: {why}. Transformers' XLNet has these arguments."
            )
        if "target_mapping" in given and self.kinds and not self.asks_second_stream:
            raise ZooError(f"{type(self).__name__} reads the first stream only, and so no target_mapping.")

    def _ask(self, inputs: CoreInputs, asked: Tensor, wants: bool, attends: bool) -> CoreOutput:
        """Run the core with its second stream at the (B, L) places that are asked for."""
        positions = asked.int().argsort(dim=1, descending=True, stable=True)[:, : int(asked.sum(1).max())]
        # No other token attends to them, and they attend to all others.
        pattern = inputs.attention_pattern._replace(permutation_ranks=asked.int())
        query = QueryStream(positions, pattern)
        output = self.core(inputs._replace(attention_pattern=pattern, query=query), None, wants, attends)
        return joined_streams(output, asked, positions)

    @property
    def _may_ask(self) -> bool:
        """Whether this model can ask a second stream of states at all."""
        token = any(isinstance(head, TokenHead) for head in self.heads.values())
        return (
            self.asks_second_stream
            and token
            and self.core.config.query_stream
            and self.config.attention == "bidirectional"
        )

    def _asked(self, input_ids: Tensor) -> Tensor | None:
        """(B, L) positions that are asked of the core's second stream: those masked; ``None`` = there are none.

        Such a core has never read a mask (permutation language models, :mod:`pretraining.objectives.permutation_lm`):
        it predicts from states that start at a position without its token. Several masked tokens of a row are
        predicted independently of each other.
        """
        mask = self.config.mask_token_id
        if mask is None or not self._may_ask:
            return None
        asked = input_ids == mask
        return asked if bool(asked.any()) else None

    def _attention_pattern(self, mask: Tensor | None) -> AttentionPattern:
        """A mask over keys as attention; a recurrent core wants lengths, and so padding at the right."""
        if self.core.config.recurrent is None or mask is None:
            return AttentionPattern(causal=self.config.attention == "causal", dense=dense_mask(mask))
        lengths = mask.sum(1)
        if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device)[None] < lengths[:, None]):
            raise ZooError("a recurrent core reads rows from end to end: padding stands at the right of a row only.")
        return AttentionPattern(causal=self.config.attention == "causal", lengths=lengths)

    def sequence_scores(self, output: CoreOutput, attention_mask: Tensor | None) -> Tensor:
        """(B, labels) scores of the state that the head reads: pooled, first, or last real one."""
        if self.head.reads_pooler:
            return self.head(output.pooler_output)
        hidden, last = output.last_hidden_state, None
        if attention_mask is not None:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (places * attention_mask.to(hidden.device)).argmax(-1)  # the last 1, wherever the padding is
        return self.head(pooled_state(hidden, self.config.metadata().template.pooling, last))

    def token_scores(self, head: TokenHead, hidden: Tensor) -> Tensor:
        """(..., W) states -> (..., V)."""
        return head(hidden, self.core.token_embedding)
