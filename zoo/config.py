"""The config of a core: which fields go together, and how it is read and written."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from zoo.config_parts import CharacterConfig, DecoderConfig, FusionConfig, RecurrentConfig
from zoo.core_fields import CoreFields
from zoo.errors import ZooError, nearest
from zoo.values import check_fields

_PARTS: dict[str, Any] = {
    "characters": CharacterConfig,
    "recurrent": RecurrentConfig,
    "fusion": FusionConfig,
    "decoder": DecoderConfig,
}
"""Fields that are configs of a part."""


@dataclass(frozen=True)
class CoreConfig(CoreFields):
    """Architecture of a core: fields that were checked against each other."""

    def __post_init__(self) -> None:
        """Raise ZooError if no core can be built, naming what would work."""
        check_fields(self, "model")
        checks = (_check_sizes, _check_block, _check_embeddings, _check_parts, _check_relative, _check_buckets)
        later = (
            _check_attention_layers,
            _check_axial,
            _check_depth_signal,
            _check_reversible,
            _check_decoder,
            _check_table,
        )
        for check in (*checks, _check_fusion, *later):
            check(self)

    @property
    def decoder_side(self) -> CoreConfig:
        """The config of the decoder's layers, as of a core without a decoder; only where there is one."""
        assert self.decoder is not None
        own = {name: value for name, value in dataclasses.asdict(self.decoder).items() if value is not None}
        return self.replace(**own, decoder=None)

    def replace(self, **changes: Any) -> CoreConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> CoreConfig:
        """Read :meth:`to_dict`'s values back; an unknown key is an error that names the nearest."""
        _raise_on_unknown_keys(cls, fields, "the core's config")
        values = dict(fields)
        for name, part in _PARTS.items():
            if isinstance(values.get(name), dict):
                _raise_on_unknown_keys(part, values[name], f"the core's {name} config")
                values[name] = part(**values[name])
        return cls(**values)


def _check_sizes(config: CoreConfig) -> None:
    """Raise ZooError if widths, heads or groups do not go together."""
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        works = [n for n in range(1, 65) if config.hidden_size % n == 0]
        raise ZooError(
            f"model.num_attention_heads = {config.num_attention_heads} does not divide model.hidden_size = "
            f"{config.hidden_size}; these would work: {', '.join(map(str, works))}."
        )
    if config.num_attention_heads % config.key_value_heads:
        raise ZooError(
            f"model.num_key_value_heads = {config.num_key_value_heads} does not divide model.num_attention_heads = "
            f"{config.num_attention_heads}: every group of query heads shares one."
        )
    if config.position_type == "rotary" and config.head_width % 2:
        raise ZooError(
            f"model.position_type: rotary turns pairs, and a head is {config.head_width} wide (hidden_size / "
            "num_attention_heads); an even width is needed."
        )
    groups = config.num_hidden_groups
    if groups is not None and not 1 <= groups <= config.num_hidden_layers:
        raise ZooError(
            f"model.num_hidden_groups = {groups} must lie between 1 (all layers shared) and "
            f"model.num_hidden_layers = {config.num_hidden_layers} (all distinct)."
        )


def _check_block(config: CoreConfig) -> None:
    """Raise ZooError if a fact of the layers would be read by nothing."""
    if not config.first_attention_norm:
        if config.norm_position != "pre":
            raise ZooError(
                "model.first_attention_norm: false leaves out a norm before attention, and with model.norm_position: "
                f"{config.norm_position} there is none; set norm_position: pre, or leave first_attention_norm out."
            )
        if config.groups != config.num_hidden_layers:
            raise ZooError(
                "model.first_attention_norm: false makes the first layer differ, so layers cannot share weights "
                "(model.num_hidden_groups)."
            )
    elsewhere = "model.recurrent" if config.recurrent is not None else ""
    if config.position_type == "relative":
        elsewhere = "model.position_type: relative, whose scores have terms of their own"
    for name in ("qk_norm", "attn_logit_softcapping"):
        if getattr(config, name) and elsewhere:
            raise ZooError(
                f"model.{name} = {getattr(config, name)} is for plain attention and does not go with {elsewhere}."
            )


def _check_embeddings(config: CoreConfig) -> None:
    """Raise ZooError if a position table has no usable row, or a projection is needed and missing."""
    if config.position_type == "learned" and config.max_position_embeddings <= config.position_offset:
        raise ZooError(
            f"model.max_position_embeddings = {config.max_position_embeddings} leaves no usable position after "
            f"model.position_offset = {config.position_offset}."
        )
    if config.embedding_projection is False and config.embedding_size not in (None, config.input_width):
        raise ZooError(
            f"model.embedding_size = {config.embedding_size} differs from {config.input_width}, the width of the first "
            "layer's input, so model.embedding_projection cannot be false."
        )


def _check_parts(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with characters or recurrent layers."""
    if config.characters is not None and config.tie_word_embeddings:
        raise ZooError(
            "model.characters leaves no embedding table that output matrices could be tied to; "
            "set model.tie_word_embeddings: false."
        )
    if config.recurrent is None:
        return
    if config.hidden_size % 2:
        raise ZooError(
            f"model.hidden_size = {config.hidden_size}: with model.recurrent it is two directions side by side and "
            "must be even."
        )
    if config.position_type in ("rotary", "relative", "relative_buckets"):
        raise ZooError(
            f"model.position_type: {config.position_type} is for attention layers; with model.recurrent: none."
        )


def _check_relative(config: CoreConfig) -> None:
    """Raise ZooError if fields about relative scores would be read by nothing, or contradict each other."""
    if config.position_type != "relative":
        for name in ("untie_r", "relative_segments", "mem_len", "same_length", "query_stream"):
            if getattr(config, name):
                raise ZooError(
                    f"model.{name} = {getattr(config, name)} speaks of relative scores, and model.position_type is "
                    f"{config.position_type}: set it to relative, or leave {name} out."
                )
    elif config.hidden_size % 2:
        raise ZooError(
            f"model.position_type: relative needs an even model.hidden_size (sines beside cosines), not "
            f"{config.hidden_size}."
        )
    if config.same_length and not config.mem_len:
        raise ZooError("model.same_length shows every query the same model.mem_len keys: give that a length.")


def _check_buckets(config: CoreConfig) -> None:
    """Raise ZooError if distances could not be sorted into their buckets."""
    if config.head_dim is not None and config.position_type == "relative":
        raise ZooError("model.head_dim does not go with model.position_type: relative; leave it out.")
    if config.position_type != "relative_buckets":
        return
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if buckets % 4 or farthest <= buckets // 2:
        raise ZooError(
            f"model.relative_attention_num_buckets = {buckets} must be a multiple of 4 (two directions, half of "
            f"each for single distances) and less than twice model.relative_attention_max_distance = {farthest}."
        )


def _check_depth_signal(config: CoreConfig) -> None:
    """Raise ZooError if sines of the layer's number would be read by nothing, or do not fit."""
    if not config.depth_signal:
        return
    for name, found in (
        ("recurrent", config.recurrent),
        ("decoder", config.decoder),
        ("reversible", config.reversible),
    ):
        if found:
            raise ZooError(f"model.depth_signal is for a stack of attention layers by itself; not with model.{name}.")
    if config.position_type == "relative":
        raise ZooError("model.depth_signal tells layers absolute positions; not with model.position_type: relative.")
    if config.hidden_size % 2:
        raise ZooError(
            f"model.depth_signal puts sines beside cosines: an even model.hidden_size is needed, not "
            f"{config.hidden_size}."
        )


def _check_attention_layers(config: CoreConfig) -> None:
    """Raise ZooError if entries are no class paths, or layers that share weights would attend in different ways."""
    if config.attention_layers is None:
        return
    where = "model.attention_layers"
    if not config.attention_layers:
        raise ZooError(f"{where} is empty: name a class for each layer in turn, or leave it out.")
    for number, entry in enumerate(config.attention_layers):
        place, keys = f"{where}[{number}]", ("class_path", "init_args")
        for key in entry:
            if key not in keys:
                raise ZooError(f"unknown key {key!r} in {place}.{nearest(str(key), keys)}")
        if not isinstance(entry.get("class_path"), str) or not isinstance(entry.get("init_args") or {}, dict):
            raise ZooError(f"{place} = {entry}: a class_path is needed, with its init_args as names and values.")
    if config.position_type == "relative" or config.recurrent is not None:
        found = "model.recurrent" if config.recurrent is not None else "model.position_type: relative"
        raise ZooError(f"{where} is for layers of plain attention; it does not go with {found}.")
    for layer in range(config.num_hidden_layers):
        first = next(i for i in range(layer + 1) if config.group_of(i) == config.group_of(layer))
        if config.attention_of(first) != config.attention_of(layer):
            raise ZooError(
                f"{where} has different entries for the layers {first} and {layer}, which share their weights "
                f"(model.num_hidden_groups = {config.num_hidden_groups})."
            )


def _check_axial(config: CoreConfig) -> None:
    """Raise ZooError if two tables of positions do not make one of the whole length and width."""
    sizes = {"axial_pos_shape": config.axial_pos_shape, "axial_pos_embds_dim": config.axial_pos_embds_dim}
    if config.position_type != "axial":
        for name, value in sizes.items():
            if value is not None:
                raise ZooError(f"model.{name} = {value} is for model.position_type: axial, not {config.position_type}.")
        return
    for name, value in sizes.items():
        if value is None or len(value) != 2 or min(value) < 1:
            raise ZooError(f"model.{name} = {value}: position_type: axial needs two whole numbers of at least 1.")
    shape, widths = config.axial_pos_shape or [], config.axial_pos_embds_dim or []
    length = config.max_position_embeddings
    if shape[0] * shape[1] != length:
        rows = max(n for n in range(1, max(1, int(length**0.5)) + 1) if length % n == 0)
        raise ZooError(
            f"model.axial_pos_shape = {shape} makes {shape[0] * shape[1]} positions, and model.max_position_embeddings "
            f"is {length}: the two must be equal; [{rows}, {length // rows}] would work."
        )
    if sum(widths) != config.embedding_width:
        raise ZooError(
            f"model.axial_pos_embds_dim = {widths} adds up to {sum(widths)}, and the embeddings are "
            f"{config.embedding_width} wide: the two must be equal."
        )
    if config.position_offset:
        raise ZooError("model.position_type: axial begins with the first row: set model.position_offset: 0.")


def _check_reversible(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with a pair of states."""
    if config.chunk_size_feed_forward and config.fusion is not None:
        raise ZooError("model.chunk_size_feed_forward does not go with model.fusion: leave one of the two out.")
    if not config.reversible:
        return
    needed: dict[str, Any] = {"norm_position": "pre", "feed_forward": True, "pooler": False, "recurrent": None}
    for name, value in {**needed, "fusion": None, "decoder": None}.items():
        if getattr(config, name) != value:
            told = "null" if value is None else str(value).lower()
            raise ZooError(f"model.reversible needs model.{name}: {told}, not {getattr(config, name)}.")
    if config.position_type == "relative" or not config.num_hidden_layers:
        raise ZooError("model.reversible needs at least one layer, and another model.position_type than relative.")


def _check_decoder(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with a decoder."""
    if config.decoder is None:
        return
    needed = {"pooler": False, "fusion": None, "characters": None, "query_stream": False}
    for name, value in {**needed, "mem_len": None}.items():
        if getattr(config, name) != value and (getattr(config, name) or value):
            said = "false" if value is False else "null"
            raise ZooError(f"model.decoder needs model.{name}: {said}, not {getattr(config, name)}.")
    if config.num_hidden_layers == 0:
        raise ZooError("model.decoder reads an encoder's states: model.num_hidden_layers must be at least 1.")
    if config.position_type == "relative":
        raise ZooError(
            "model.position_type: relative is for one stack of layers; with model.decoder: learned, sinusoidal, "
            "rotary, relative_buckets or none."
        )
    _ = config.decoder_side  # its own checks


def _check_fusion(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with entity vectors."""
    if config.fusion is None:
        return
    needed = {"norm_position": "post", "norm": "layer", "glu": False, "recurrent": None, "mem_len": None}
    if not config.feed_forward:
        raise ZooError("model.fusion mixes entities into the feed-forward part: model.feed_forward: true is needed.")
    for name, value in needed.items():
        if getattr(config, name) != value and (getattr(config, name) or value):
            raise ZooError(f"model.fusion needs model.{name}: {value}, not {getattr(config, name)}.")
    if config.position_type == "relative_buckets":
        raise ZooError("model.fusion does not go with model.position_type: relative_buckets.")
    if config.query_stream:
        raise ZooError("model.fusion does not go with a second stream (model.query_stream).")
    if len(config.fusion.layer_types) > config.num_hidden_layers:
        raise ZooError(
            f"model.fusion.layer_types names {len(config.fusion.layer_types)} layers, "
            f"model.num_hidden_layers is {config.num_hidden_layers}."
        )
    if config.fusion.last >= 0 and config.groups != config.num_hidden_layers:
        raise ZooError("model.fusion makes layers differ, so they cannot share weights (model.num_hidden_groups).")


def _check_table(config: CoreConfig) -> None:
    """Raise ZooError if a core without layers is told of anything but its table."""
    if config.num_hidden_layers:
        return
    needed: dict[str, Any] = {"position_type": "none", "type_vocab_size": 0, "task_type_vocab_size": 0}
    needed |= {"embedding_norm": False, "pooler": False, "hidden_dropout_prob": 0.0}
    needed |= {"characters": None, "recurrent": None, "fusion": None, "decoder": None, "attention_layers": None}
    needed |= {"depth_signal": False}
    for name, value in needed.items():
        if getattr(config, name) != value:
            told = "null" if value is None else str(value).lower()
            raise ZooError(f"model.num_hidden_layers: 0 is a table of vectors alone: set model.{name}: {told}.")
    if config.has_embedding_projection:
        raise ZooError("model.num_hidden_layers: 0 is a table of vectors alone: leave model.embedding_size out.")
    if config.tie_word_embeddings:
        raise ZooError(
            "model.num_hidden_layers: 0 with model.tie_word_embeddings would make each word its own best context: set "
            "model.tie_word_embeddings: false, so that words as inputs and as outputs have a table each."
        )


def _raise_on_unknown_keys(cls: Any, given: dict[str, Any], where: str) -> None:
    known = {field.name for field in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            raise ZooError(f"unknown key {name!r} in {where}.{nearest(name, known)}")
