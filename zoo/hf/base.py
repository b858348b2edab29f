"""What all models of the zoo share in transformers: a core with heads, its forward pass, masks and losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, StaticCache
from transformers import initialization as hf_init
from transformers.utils import can_return_tuple as untyped_can_return_tuple

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.embeddings import Embeddings
from zoo.core.functions import sinusoids
from zoo.core.init import initial_of
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.sequence_head import new_sequence_head, pooled_state
from zoo.heads.token_heads import TokenHead
from zoo.hf.config import ZooConfig
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput, QueryStream
from zoo.model_folder import ModelMetadata

# Names of new heads. PEFT trains what ends in "classifier" or "qa_outputs" in full, beside its adapters.
_NAMES = {
    "token": "token_lm",
    "classification": "classifier",
    "tagging": "token_classifier",
    "span": "qa_outputs",
    "choice": "choice_classifier",
}

_Forward = TypeVar("_Forward", bound=Callable[..., Any])


class ZooPreTrainedModel(PreTrainedModel):
    """A core, and those heads of the configuration that the class reads.

    A class takes the first head of each of its ``kinds``; one with a single kind makes a new head where there is none,
    which transformers reports.

    Attributes:
        kinds: kinds of the heads it reads.
        attention_needed: attention for which its head makes sense, ``bidirectional`` or ``causal``; ``None`` = either.
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
    attention_needed: ClassVar[str | None] = None
    asks_second_stream: ClassVar[bool] = False

    def __init__(self, config: ZooConfig) -> None:
        config = copy.deepcopy(config)
        metadata = config.metadata()
        self._check_attention(config.attention)
        config.heads = self._choose_heads(config, metadata)
        super().__init__(config)
        self.core = make_core(metadata.config)
        self.heads = nn.ModuleDict({name: build_head(metadata.config, head) for name, head in config.heads.items()})
        self.post_init()

    def _check_attention(self, attention: str) -> None:
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
                "has no such class. Ask it with finetune.training.saved.open_features(FOLDER), or open the core with "
                "AutoModel."
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
        if isinstance(module, Embeddings) and hasattr(module, "sinusoids"):  # rebuilt, never in a file
            hf_init.copy_(module.sinusoids, sinusoids_of(module))

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
            inputs_embeds: an error; the core reads ids.
            character_ids: (B, L, C) of words, for a core that reads characters, beside ids of the same shape: words
                that the tokenizer lacks are unknown to it otherwise (:func:`zoo.core.characters.character_ids`).
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
            attention_pattern=self._attention_pattern(attention_mask),
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
        return self._ask(inputs, asked, bool(wants), bool(attends))

    def _ask(self, inputs: CoreInputs, asked: Tensor, wants: bool, attends: bool) -> CoreOutput:
        """Run the core with its second stream at the (B, L) places that are asked for."""
        positions = asked.int().argsort(dim=1, descending=True, stable=True)[:, : int(asked.sum(1).max())]
        # No other token attends to them, and they attend to all others.
        pattern = inputs.attention_pattern._replace(permutation_ranks=asked.int())
        query = QueryStream(positions, pattern)
        output = self.core(inputs._replace(attention_pattern=pattern, query=query), None, wants, attends)
        return _first_stream(output, asked, positions)

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


# ---- functions for the classes of single tasks -----------------------------------------------------------------------


def can_return_tuple(forward: _Forward) -> _Forward:
    """Transformers' decorator for ``return_dict``, with its type kept."""
    decorated: _Forward = untyped_can_return_tuple(forward)
    return decorated


def dense_mask(mask: Tensor | None) -> Tensor | None:
    """A mask over keys as attention; ``None`` where everything is real (looked up on a CPU only: it costs a wait)."""
    if mask is None:
        return None
    if mask.ndim != 2:
        raise ZooError(
            f"attention_mask has {mask.ndim} axes; (batch, tokens) is read, causality follows from the model."
        )
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return mask.bool()[:, None, :]


def mean_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Mean over labels other than -100, or their sum over a given global count."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1).to(logits.device)
    if count is None:
        return functional.cross_entropy(flat, wanted)
    total = functional.cross_entropy(flat, wanted, reduction="sum")
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


def sinusoids_of(embeddings: Embeddings) -> Tensor:
    """(positions, W) sinusoids for an embedding of that size."""
    return sinusoids(embeddings.config.max_position_embeddings, embeddings.config.embedding_width)
