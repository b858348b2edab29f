"""A model folder's metadata as transformers' configuration."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from transformers import PretrainedConfig

from zoo.config import CoreConfig
from zoo.model_folder import MODEL_TYPE, ModelMetadata, metadata_from_dict
from zoo.storage.tokenizer_files import special_tokens
from zoo.vocabulary import Template
from zoo.weights.files import token_ids


class ZooConfig(PretrainedConfig):
    """A model folder's metadata as transformers' configuration.

    Every field of :class:`zoo.config.CoreConfig` (``hidden_size``, ``vocab_size``, ...) can be read and set as an
    attribute; all of them live in ``core``.

    Args:
        core: the core's config.
        attention: ``bidirectional`` or ``causal``.
        template: layout of texts, and pooling.
        heads: config of each head by name.
        origin: ``model_type`` of the checkpoint that the weights came from.
        zoo_version: version that wrote the folder.
        decoder_start_token_id: what a decoder reads first.
        mask_token_id: what stands for a token to be predicted; like the next two, the tokenizer's where it is not said.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    core: dict[str, Any] | None = None
    attention: str = "bidirectional"
    template: dict[str, Any] | None = None
    heads: dict[str, Any] | None = None
    origin: str | None = None
    zoo_version: str | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    mask_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """The core's config first, so that what follows can set its fields; labels come from the head that has them."""
        plain, early = CoreConfig().to_dict(), self.__dict__.pop("_early", {})
        said = {name: value for name, value in early.items() if value != plain[name]}
        self.core = {**plain, **(self.core or {}), **said}
        self.is_encoder_decoder = self.core["decoder"] is not None
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

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> ZooConfig:
        """This configuration; of a decoder, which caches ask for, one with its layers and heads."""
        if not decoder or encoder or not self.is_encoder_decoder:
            return self
        side = copy.deepcopy(self)
        side.core = CoreConfig.from_dict(self.core or {}).decoder_side.to_dict()
        side.is_encoder_decoder = False
        return side

    @classmethod
    def of(cls, metadata: ModelMetadata) -> ZooConfig:
        """The configuration of a model folder."""
        return cls(**{key: value for key, value in metadata.to_dict().items() if key != "model_type"})

    def metadata(self) -> ModelMetadata:
        """The metadata of a model folder, checked."""
        return metadata_from_dict(self.to_dict() | {"core": self.core}, Path(self.name_or_path or ""))


def _core_field(name: str) -> property:
    def read(config: ZooConfig) -> Any:
        value = (config.core or {})[name]
        if value is None and name == "head_dim":  # caches ask for it, and for the next
            return CoreConfig.from_dict(config.core or {}).head_width
        return (config.core or {})["num_attention_heads"] if name == "num_key_value_heads" and value is None else value

    def write(config: ZooConfig, value: Any) -> None:
        if config.core is None:  # a field that transformers has, too, and sets before those of this class
            config.__dict__.setdefault("_early", {})[name] = value
        else:
            config.core[name] = value

    return property(read, write)


for _field in dataclasses.fields(CoreConfig):
    setattr(ZooConfig, _field.name, _core_field(_field.name))
