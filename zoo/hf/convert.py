"""Models of the zoo from folders and stock models, and back; importing this file registers the Auto classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from zoo.core.embeddings import PositionedEmbeddings
from zoo.errors import ZooError
from zoo.hf.base import ZooPreTrainedModel
from zoo.hf.config import ZooConfig
from zoo.hf.models import (
    ZooForCausalLM,
    ZooForMaskedLM,
    ZooForMultipleChoice,
    ZooForPreTraining,
    ZooForQuestionAnswering,
    ZooForSequenceClassification,
    ZooForTokenClassification,
    ZooModel,
)
from zoo.hf.seq2seq import ZooForConditionalGeneration
from zoo.model_folder import MODEL_TYPE, ModelMetadata, read_metadata
from zoo.storage.tokenizer_files import special_tokens
from zoo.weights.files import find_folder, open_checkpoint
from zoo.weights.published import their_config
from zoo.weights.read import all_families, find_family, read_checkpoint
from zoo.weights.write import write_checkpoint

AUTO_CLASSES: dict[Any, type[ZooPreTrainedModel]] = {
    AutoModel: ZooModel,
    AutoModelForMaskedLM: ZooForMaskedLM,
    AutoModelForCausalLM: ZooForCausalLM,
    AutoModelForPreTraining: ZooForPreTraining,
    AutoModelForSeq2SeqLM: ZooForConditionalGeneration,
    AutoModelForSequenceClassification: ZooForSequenceClassification,
    AutoModelForTokenClassification: ZooForTokenClassification,
    AutoModelForQuestionAnswering: ZooForQuestionAnswering,
    AutoModelForMultipleChoice: ZooForMultipleChoice,
}

AutoConfig.register(MODEL_TYPE, ZooConfig)

for _auto, _own in AUTO_CLASSES.items():
    _auto.register(ZooConfig, _own)


def from_folder(path: str | Path) -> ZooPreTrainedModel:
    """The model of a folder of the zoo, as the class that reads most of its heads.

    Args:
        path: a run folder, or what ``save_pretrained`` wrote.

    Raises:
        ZooError: not a model folder of the zoo.
    """
    model: ZooPreTrainedModel = auto_class(read_metadata(path)).from_pretrained(path)
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
        config, _ = their_config(folder, all_families(), lambda: open_checkpoint(folder))
        if config.get("model_type") == MODEL_TYPE:
            return from_folder(folder)
        find_family(config.get("model_type"))  # before anything of an unknown model is read
        tensors, specials = open_checkpoint(folder), special_tokens(folder)
    found = read_checkpoint(config, tensors, specials)
    own = ZooConfig.of(found.metadata)
    if folder is not None:
        own.read_special_ids(folder)
    with torch.device("meta"):
        model = auto_class(found.metadata)(own)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in found.tensors.items()}
    return _filled(model, state)


def to_transformers(model: ZooPreTrainedModel, family: str | None = None) -> PreTrainedModel:
    """A model of the zoo as the stock class that expresses it, with the same weights.

    Args:
        model: a model of the zoo.
        family: ``model_type`` wanted; ``None`` = where the weights came from, or the first that can say the model.

    Raises:
        ZooError: no stock class can; names the fields in the way.
    """
    checkpoint = write_checkpoint(model.config.metadata(), model.state_dict(), family)
    config = dict(checkpoint.config)
    (architecture,) = config.pop("architectures")
    ids = {
        k: getattr(model.config, k)
        for k in ("bos_token_id", "eos_token_id", "decoder_start_token_id")
        if getattr(model.config, k) is not None
    }
    stock_config = AutoConfig.for_model(**{"bos_token_id": None, "eos_token_id": None, **config, **ids})
    stock: PreTrainedModel = getattr(transformers, architecture)(stock_config)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    loaded = stock.load_state_dict(state, strict=False)
    wrong = [n for n in loaded.missing_keys if n not in stock.all_tied_weights_keys and "position_ids" not in n]
    wrong += loaded.unexpected_keys
    if wrong:
        raise ZooError(f"{architecture} of this transformers version has other tensors: {', '.join(wrong[:6])}.")
    return stock.to(next(iter(state.values())).dtype).eval()


def auto_class(metadata: ModelMetadata) -> type[ZooPreTrainedModel]:
    """The class that reads most of a model's heads."""
    two_way = metadata.attention == "bidirectional"  # a half of the states then means one direction, which has no class
    kinds = {head["kind"] for head in metadata.heads.values() if not (two_way and head.get("half"))}
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
    if metadata.config.decoder is not None:
        return ZooForConditionalGeneration if "token" in kinds else ZooModel
    if "token" in kinds:
        return ZooForCausalLM if metadata.attention == "causal" else ZooForMaskedLM
    return ZooModel


def _filled(model: ZooPreTrainedModel, state: dict[str, Tensor]) -> ZooPreTrainedModel:
    """A model made on the meta device with its tensors put in, and what is never in a file rebuilt."""
    model.load_state_dict(state, assign=True)
    for module in model.core.modules():
        if isinstance(module, PositionedEmbeddings) and hasattr(module, "sinusoids"):
            module.sinusoids = module.make_sinusoids()
    return model.eval()
