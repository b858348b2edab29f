"""Fields of the config in their words and ours, and whether a model of ours can be said in theirs.

Expressible = the fields survive the way there and back: whatever comes back changed is what prevents it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zoo.attention.build import attention_class
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata
from zoo.weights.table import Family, HeadTable

TRAINING_ONLY = {
    "initializer",
    "initializer_range",
    "residual_init_scale",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "activation_dropout",
    "final_dropout",
    "axial_norm_std",
    "chunk_size_feed_forward",
    "z_loss_weight",
}
"""Fields that steer training only; other libraries have no word for some of them."""

# Fields that are numbers, and those that may be absent.
_HINTS = {name: {hint, *typing.get_args(hint)} for name, hint in typing.get_type_hints(CoreConfig).items()}
_NUMBERS = {name for name, kinds in _HINTS.items() if kinds & {int, float}}
_OPTIONAL = {name for name, kinds in _HINTS.items() if type(None) in kinds}


class Translation(NamedTuple):
    """A pair of functions between a field of ours and keys of their ``config.json``.

    Args:
        read: (their config, key, default) -> our value.
        write: (our value, key, their keys so far) -> their keys.
    """

    read: Callable[[Mapping[str, Any], str, Any], Any]
    write: Callable[[Any, str, Mapping[str, Any]], dict[str, Any]]


def _read_rope(config: Mapping[str, Any], key: str, default: Any) -> float:
    """Base of the angles: ``rope_parameters`` today, ``rope_theta`` and ``rope_scaling`` in older files."""
    found = config.get(key) or config.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default" or found.get("partial_rotary_factor", 1.0) != 1.0:
        raise ZooError(f"its rotary positions are scaled ({key}: {found}); the core has plain ones only.")
    return float(found.get("rope_theta", config.get("rope_theta", default)))


def _write_rope(value: float | None, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    return {} if value is None else {key: {"rope_type": "default", "rope_theta": value}}


def _read_groups(config: Mapping[str, Any], key: str, default: Any) -> int:
    """Sets of shared weights. Their layers find theirs in floating point, which at some sizes rounds to another one."""
    groups, layers = int(config.get(key) or default), int(config.get("num_hidden_layers", 12))
    other = (i for i in range(min(layers, 2**16)) if int(i / (layers / groups)) != i * groups // layers)
    if groups > 1 and (layer := next(other, None)) is not None:
        raise ZooError(
            f"its layer {layer} of {layers} in {groups} groups has the weights of group {layer * groups // layers} "
            "here, and of the one before there, by a rounding error there."
        )
    return groups


_ENTITY_LAYERS = {"plain": "sim", "mixed": "mix", "full": "norm"}


def _read_entity_layers(config: Mapping[str, Any], key: str, default: Any) -> dict[str, Any]:
    """Kinds of layers; width and heads are numbers in their code, where nothing can change them."""
    ours = {theirs: kind for kind, theirs in _ENTITY_LAYERS.items()}
    said = config.get(key, default)
    if not isinstance(said, list) or not set(said) <= set(ours):
        raise ZooError(f"its config says {key} = {said!r}; a list of {', '.join(ours)} is needed.")
    return {"layer_types": [ours[kind] for kind in said], "entity_size": 100, "num_attention_heads": 4}


def _write_entity_layers(value: Mapping[str, Any] | None, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    return {} if value is None else {key: [_ENTITY_LAYERS[kind] for kind in value["layer_types"]]}


_SIZES = {"num_hidden_layers": "layers", "num_attention_heads": "attention_heads", "intermediate_size": "ffn_dim"}


def _read_decoder(config: Mapping[str, Any], key: str, default: Any) -> dict[str, Any]:
    """Sizes of the decoder, each as said or, where their class has a number of its own for it, that one."""
    defaults = {"layers": default, "attention_heads": 16, "ffn_dim": 4096}
    return {ours: config.get(f"decoder_{name}", defaults[name]) for ours, name in _SIZES.items()}


def _write_decoder(value: Mapping[str, Any] | None, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    return {} if value is None else {f"decoder_{name}": value[ours] for ours, name in _SIZES.items()}


def _read_gated(config: Mapping[str, Any], key: str, default: Any) -> str:
    """The activation in ``gated-gelu`` and the like; that one word means the tanh form."""
    name = str(config.get(key, default))
    if name == "gated-gelu":
        return "gelu_new"
    return name.removeprefix("gated-")


def _write_gated(value: str, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    if not written["is_gated_act"]:
        return {key: value}
    return {key: "gated-gelu" if value == "gelu_new" else f"gated-{value}"}


_HASHED, _LOCAL = "LSHSelfAttention", "LocalSelfAttention"
_CHUNKS = {"lsh": _HASHED, "local": _LOCAL}


def _read_chunked(config: Mapping[str, Any], key: str, default: Any) -> list[dict[str, Any]]:
    """Attention of each layer; what their config says of all hashed, or of all local layers stands with each here."""
    kinds = list(config.get(key) or default)
    if not set(kinds) <= set(_CHUNKS):
        raise ZooError(f"its config says {key} = {kinds!r}; the zoo has {', '.join(_CHUNKS)}.")
    made = {}
    for kind in _CHUNKS:
        dropout = f"{kind}_attention_probs_dropout_prob"
        arguments: dict[str, Any] = {
            "chunk_length": config.get(f"{kind}_attn_chunk_length", 64),
            "num_chunks_before": config.get(f"{kind}_num_chunks_before", 1),
            "num_chunks_after": config.get(f"{kind}_num_chunks_after", 0),
            "attention_probs_dropout_prob": config.get(dropout, 0.0 if kind == "lsh" else 0.05),
        }
        if kind == "lsh":
            arguments |= {"num_hashes": config.get("num_hashes", 1), "num_buckets": config.get("num_buckets")}
            arguments["hash_seed"] = config.get("hash_seed") or 0
        made[kind] = {"class_path": f"zoo.attention.{_CHUNKS[kind]}", "init_args": arguments}
    return [made[kind] for kind in kinds]


def _write_chunked(value: list[dict[str, Any]] | None, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    """Their keys; layers of one kind that differ come back changed, which tells that they cannot be said."""
    found: dict[str, Any] = {key: []}
    for entry in value or []:
        name = entry["class_path"].rpartition(".")[2]
        kind = next((theirs for theirs, ours in _CHUNKS.items() if ours == name), name)
        found[key].append(kind)
        for argument, given in entry["init_args"].items():
            own = argument.replace("chunk_length", "attn_chunk_length")
            found[argument if argument in ("num_hashes", "num_buckets", "hash_seed") else f"{kind}_{own}"] = given
    return found if value else {}


def _write_given(value: Any, key: str, written: Mapping[str, Any]) -> dict[str, Any]:
    return {} if value is None else {key: value}


TRANSLATIONS: dict[str, Translation] = {
    "same": Translation(lambda config, key, default: config.get(key, default), lambda value, key, _: {key: value}),
    # Their tables keep the rows up to the padding's for nobody.
    "after": Translation(lambda config, key, default: (config.get(key, default) or 0) + 1, lambda value, key, _: {}),
    # A table that is there only where `use_...` says so.
    "optional": Translation(
        lambda config, key, default: config.get(key, default) if config.get("use_task_id") else 0,
        lambda value, key, _: {key: value or 3, "use_task_id": bool(value)},
    ),
    # An inner width that is always four times the hidden width, or so unless said.
    "four times": Translation(lambda config, key, default: 4 * config.get(key, default), lambda value, key, _: {}),
    "four times unless said": Translation(
        lambda config, key, default: config.get(key) or 4 * config.get("n_embd", 768),
        lambda value, key, _: {key: value},
    ),
    # The same under an older name.
    "or n_words": Translation(
        lambda config, key, default: config.get(key, config.get("n_words", default)), lambda value, key, _: {key: value}
    ),
    "or pad_index": Translation(
        lambda config, key, default: config.get(key, config.get("pad_index", default)),
        lambda value, key, _: {key: value},
    ),
    # A table of languages, which one language has not.
    "languages": Translation(
        lambda config, key, default: (
            n if (n := config.get(key, default)) > 1 and config.get("use_lang_emb", True) else 0
        ),
        lambda value, key, _: {key: value or 1},
    ),
    "rope": Translation(_read_rope, _write_rope),
    "entity layers": Translation(_read_entity_layers, _write_entity_layers),
    "groups": Translation(_read_groups, lambda value, key, _: {key: value}),
    # A table with two rows before those that their number counts.
    "two more": Translation(
        lambda config, key, default: config.get(key, default) + 2, lambda value, key, _: {key: value - 2}
    ),
    "decoder sizes": Translation(_read_decoder, _write_decoder),
    "decoder layers": Translation(
        lambda config, key, default: {"num_hidden_layers": config.get(key, default)},
        lambda value, key, _: {} if value is None else {key: value["num_hidden_layers"]},
    ),
    # Whether there is a gate is said in the activation's name.
    "gated": Translation(
        lambda config, key, default: str(config.get(key, default)).startswith("gated-"),
        lambda value, key, _: {"is_gated_act": value},
    ),
    "gated activation": Translation(_read_gated, _write_gated),
    # A list of kinds, one for each layer.
    "number of layers": Translation(
        lambda config, key, default: len(config.get(key) or default), lambda value, key, _: {}
    ),
    "hashed and local": Translation(_read_chunked, _write_chunked),
    "axial": Translation(
        lambda config, key, default: list(config.get(key, default)) if config.get("axial_pos_embds", True) else None,
        _write_given,
    ),
    "where there is one": Translation(lambda config, key, default: config.get(key, default), _write_given),
    # Older files say it by tie_word_embeddings alone.
    "as tied unless said": Translation(
        lambda config, key, default: config.get(key, config.get("tie_word_embeddings", True) is not False),
        lambda value, key, _: {key: value},
    ),
}
"""What a field may name as its ``op``."""


def read_config(family: Family, config: Mapping[str, Any]) -> CoreConfig:
    """Our config out of their ``config.json``.

    Raises:
        ZooError: it asks for something that the table does not stand for.
    """
    for key, value in family.presumed.items():
        if config.get(key, value) not in (value, None):
            raise ZooError(
                f"its config.json says {key} = {config[key]!r}, and the zoo reads {family.title} with {value!r} only."
            )
    values: dict[str, Any] = dict(family.fixed)
    for field in family.fields:
        said = config.get(field.theirs, field.default)
        if isinstance(field.op, str):
            try:
                value = TRANSLATIONS[field.op].read(config, field.theirs, field.default)
            except (TypeError, ValueError):
                value = said
        else:
            value = next((ours for ours, theirs in field.op if theirs == said), None)
            if value is None:
                known = ", ".join(repr(theirs) for _, theirs in field.op)
                raise ZooError(f"its config.json says {field.theirs} = {said!r}; the zoo has {known}.")
        missing = value is None and field.ours in _OPTIONAL
        if field.ours in _NUMBERS and not missing and not isinstance(value, int | float):
            raise ZooError(f"its config.json says {field.theirs} = {said!r}; a number is needed.")
        values[field.ours] = value
    if (values.get("pad_token_id") or 0) < 0:  # the first LLaMA checkpoints say -1 where they have none
        values["pad_token_id"] = None
    core = CoreConfig.from_dict(values)
    width = config.get("head_dim") or core.head_width
    if width != core.head_width:
        raise ZooError(f"its heads are {width} wide; the core's are hidden_size / num_attention_heads wide.")
    return core


def write_config(family: Family, core: CoreConfig) -> dict[str, Any]:
    """Their ``config.json`` (architecture only) for a core of ours, whether or not it can be expressed."""
    config: dict[str, Any] = {"model_type": family.model_type}
    plain = canonical(core)
    for field in family.fields:
        value = plain[field.ours]
        if isinstance(field.op, str):
            config |= TRANSLATIONS[field.op].write(value, field.theirs, config)
        else:
            config[field.theirs] = dict(field.op).get(value)
    return config


def canonical(core: CoreConfig) -> dict[str, Any]:
    """All fields with defaults filled in, and those that mean nothing beside the others set to ``None``."""
    values = core.to_dict()
    values |= {
        "embedding_size": core.embedding_width,
        "embedding_projection": core.has_embedding_projection,
        "num_hidden_groups": core.groups,
        "num_key_value_heads": core.key_value_heads,
        "head_dim": core.head_width,
    }
    if core.attention_layers:
        values["attention_layers"] = [_described(core, layer) for layer in range(core.num_hidden_layers)]
    if core.decoder is not None:
        side = core.decoder_side
        values["decoder"] = {name: getattr(side, name) for name in values["decoder"]}
        values["decoder"]["num_hidden_groups"] = side.groups
    if core.position_type != "sinusoidal":
        values["sinusoid_layout"] = None
    if core.position_type != "relative_buckets":
        values |= {"relative_attention_num_buckets": None, "relative_attention_max_distance": None}
    for kind, name in (("rotary", "rope_theta"), ("axial", "axial_norm_std")):
        if core.position_type != kind:
            values[name] = None
    if not core.has_position_table:
        values["position_offset"] = None
    if core.norm == "rms":
        values["norm_bias"] = None
    return values


def _described(core: CoreConfig, layer: int) -> dict[str, Any]:
    """The attention of a layer with all arguments of its class."""
    found = attention_class(core, layer)
    assert found is not None
    kind, given = found
    known = inspect.signature(kind).parameters.values()
    arguments = {p.name: p.default for p in known if p.default is not p.empty} | given
    if arguments.get("attention_probs_dropout_prob", 0) is None:
        arguments["attention_probs_dropout_prob"] = core.attention_probs_dropout_prob
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def architecture(core: CoreConfig) -> dict[str, Any]:
    """:func:`canonical` without what steers training only, so that two cores of one architecture are equal."""
    values = {key: value for key, value in canonical(core).items() if key not in TRAINING_ONLY}
    if values["recurrent"] is not None:
        values["recurrent"] = {key: value for key, value in values["recurrent"].items() if key != "dropout"}
    return values


def inexpressible(family: Family, metadata: ModelMetadata) -> list[str]:
    """What prevents a model of ours from being said in a family's words; empty = it can be."""
    core, found = metadata.config, []
    ours = canonical(core)
    least = {key: value for key, value in family.at_least.items() if ours[key] is None or ours[key] < value}
    found += [f"{key} = {ours[key]} ({family.title}: at least {value})" for key, value in least.items()]
    if core.vocab_size and (core.pad_token_id or 0) >= core.vocab_size:
        found.append(f"pad_token_id = {core.pad_token_id} ({family.title}: below vocab_size = {core.vocab_size})")
    written = write_config(family, core)
    for field in family.fields:
        if not isinstance(field.op, str) and written[field.theirs] is None:
            known = " or ".join(str(value) for value, _ in field.op)
            found.append(f"{field.ours} = {ours[field.ours]} ({family.title}: {known})")
            written[field.theirs] = field.op[0][1]  # said already; the others are still to be compared
            ours.pop(field.ours)
    try:
        back = canonical(read_config(family, written).replace(**_free(family, core)))
    except ZooError as error:  # what the family always has cannot be built beside these
        found.append(str(error))
        back = {**ours, **family.fixed}
    for key, value in ours.items():
        if key not in TRAINING_ONLY and key != "pad_token_id" and value != back[key]:
            found.append(f"{key} = {value} ({family.title}: {back[key]})")
    if metadata.attention != family.attention and not family.causal_key:
        found.append(f"attention = {metadata.attention} ({family.title}: {family.attention})")
    if metadata.heads and not matching_heads(family, metadata):
        found += _inexpressible_heads(family, metadata)
    return found


def _free(family: Family, core: CoreConfig) -> dict[str, Any]:
    """Fields that no key says and nothing is lost by: a pooler its tensors show, a length that is no limit."""
    free: dict[str, Any] = {"pooler": core.pooler} if "pooler" not in family.fixed else {}
    if not core.has_position_table and all(field.ours != "max_position_embeddings" for field in family.fields):
        free["max_position_embeddings"] = core.max_position_embeddings
    return free


def matching_heads(family: Family, metadata: ModelMetadata) -> dict[str, HeadTable]:
    """Our heads' names with the family's head that says the same."""
    found: dict[str, HeadTable] = {}
    for name, head in metadata.heads.items():
        fitting = (table for table in family.heads if not _mismatch(table, head, metadata))
        table = next(fitting, None)
        if table is not None and table not in found.values():
            found[name] = table
    return found


def _mismatch(table: HeadTable, head: Mapping[str, Any], metadata: ModelMetadata) -> list[str]:
    """How a head of ours differs from one of theirs."""
    plain = {**metadata.config.to_dict(), "pooler": metadata.config.pooler}
    wanted = {key: plain[value[1:]] if str(value).startswith("$") else value for key, value in table.config.items()}
    wanted = {key: value for key, value in wanted.items() if not str(value).startswith("?")}
    found = [f"{key} = {head.get(key)} (there: {value})" for key, value in wanted.items() if head.get(key) != value]
    found += [
        f"{key} = {plain[key]} (there: {value})" for key, value in table.required_fields.items() if plain[key] != value
    ]
    if table.attention not in (None, metadata.attention):
        found.append(f"attention = {metadata.attention} (there: {table.attention})")
    if table.pooling not in (None, metadata.template.pooling):
        found.append(f"template.pooling = {metadata.template.pooling} (there: {table.pooling})")
    return found


def _inexpressible_heads(family: Family, metadata: ModelMetadata) -> list[str]:
    """Why none of our heads can be said, each against the nearest of theirs."""
    found = []
    for name, head in metadata.heads.items():
        tables = [t for t in family.heads if t.config.get("kind") == head.get("kind")]
        reasons = min((_mismatch(t, head, metadata) for t in tables), key=len, default=["no such head there"])
        found += [f"heads.{name}: {reason}" for reason in reasons]
    return found
