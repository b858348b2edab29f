"""From settings to the parts of a run: store, rows of every task, optimiser; what cannot work raises ZooError here."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pretraining.keyed_random import Draw
from pretraining.optim.optimizers import parameter_groups
from pretraining.store.token_store import Store
from pretraining.training.checks import (
    check_attention,
    check_languages,
    check_memory,
    check_parallel_rows,
    missing_field,
)
from pretraining.training.config import PretrainConfig, TrainConfig
from pretraining.training.loader import TaskLoader, split_documents
from pretraining.training.stores import TokenStores
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.runtime.sharding import like_sharded, shard_model, whole
from zoo.vocabulary import Vocabulary

_VALIDATION_ROWS = 8  # whatever the batch and the number of processes, so that figures can be compared


def make_tasks(
    config: PretrainConfig, stores: TokenStores, vocabulary: Vocabulary
) -> tuple[dict[str, TaskLoader], dict[str, TaskLoader]]:
    """Training and held-out rows of every task.

    Raises:
        ZooError: an objective lacks what it needs, objectives of a task contradict each other, or the documents
            cannot be laid out.
    """
    training: dict[str, TaskLoader] = {}
    validation: dict[str, TaskLoader] = {}
    check_languages(config, stores)
    for name, task in config.tasks.items():
        store = stores.for_task(name)
        train, held_out = split_documents(store, config.data.validation_tokens)
        own = task.own(config.objectives)
        if (missing := missing_field(config, name, store)) is not None:
            raise missing.error()
        check_attention(name, own)
        for objective in own.values():
            objective.check_store(store)
            objective.bind_store(store)
        check_memory(name, task.layout, config)
        task.layout.parallel_rows = config.train.batch_size
        length, seed, copies = config.data.sequence_length, data_seed(config, name), config.data.mask_copies
        loader = TaskLoader(store, train, task.layout, own, vocabulary, length, seed, copies, task.task_type_id)
        training[name] = dataclasses.replace(loader, batch_tokens=config.train.batch_tokens)
        check_parallel_rows(name, task.layout, len(training[name].plan(0)[0]), config.train.batch_size)
        if len(held_out):
            layout = copy.copy(task.layout)
            layout.parallel_rows = _VALIDATION_ROWS
            validation[name] = dataclasses.replace(
                loader, documents=held_out, layout=layout, seed=0, mask_copies=1, _plans={}
            )
            try:
                validation[name].plan(0)
            except ZooError as error:
                wanted = config.data.validation_tokens
                raise ZooError(
                    f"task {name!r}: the training text makes rows, but the text held out for validation "
                    f"({len(held_out)} of {store.num_documents:,} documents; data.validation_tokens = {wanted}) makes "
                    f"none: {error} --data.validation_tokens 0 goes without validation; more of them, or more text, "
                    "may do, too."
                ) from error
    return training, validation


def decoder_start(config: PretrainConfig, vocabulary: Vocabulary) -> int | None:
    """What a decoder reads first in the rows of a run; ``None`` = they have no targets.

    Raises:
        ZooError: tasks start their targets differently, so that a model could not know with what.
    """
    layouts = {f"tasks.{name}.layout": task.layout.target_start for name, task in config.tasks.items()}
    objectives = {f"objectives.{name}": objective.target_start for name, objective in config.objectives.items()}
    found = {name: role for name, role in {**layouts, **objectives}.items() if role is not None}
    if len(set(found.values())) > 1:
        raise ZooError(f"targets of this run start with different tokens ({found}): give them the same `start`.")
    role = next(iter(found.values()), None)
    start: int | None = None if role is None else getattr(vocabulary, role)
    return start


def data_seed(config: PretrainConfig, task: str) -> int:
    """What keys a task's order and masks.

    The first task has the run's own seed, so it reads what a run of it alone would. All others have their own, or tasks
    of one layout would read the same rows, with the same tokens hidden.
    """
    if task == next(iter(config.tasks)):
        return config.seed.data
    number = np.array([zlib.crc32(task.encode())], dtype=np.int64)
    return int(Draw(config.seed.data, 0).keys(number, "data")[0] >> np.uint64(1))


def make_optimizer(train: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over decayed and spared parameters."""
    groups = parameter_groups(model.named_parameters(), train.weight_decay, train.no_decay)
    if train.optimizer is None:
        return torch.optim.AdamW(groups, lr=train.lr, eps=1e-6, fused=True)
    return train.optimizer(groups)


def check_optimizer(train: TrainConfig, sparse: bool = False) -> None:
    """Raise ZooError if the optimiser cannot be made, or makes no step, on weights like a run's.

    Args:
        train: names it.
        sparse: gradients are of some rows of a table.

    Raises:
        ZooError: what it says of its arguments, or of such gradients.
    """
    part = nn.Embedding(2, 2) if sparse else nn.Linear(2, 2)
    model = nn.ModuleDict({"core": nn.ModuleDict({"layers": nn.ModuleList([part])})})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = make_optimizer(train, model)
        if sparse:
            part.weight.grad = torch.sparse_coo_tensor(
                torch.tensor([[1]]), torch.ones(1, 2), (2, 2), check_invariants=False
            )
        optimizer.step()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        hint = (
            ". An objective's gradients are of rows (sparse: true), which torch.optim.SGD and torch.optim.Adagrad take."
        )
        raise ZooError(f"train.optimizer cannot be used: {error}{hint if sparse else ''}") from error


def check_sharded_optimizer(train: TrainConfig, device: torch.device) -> None:
    """Raise ZooError unless the optimiser does with a sharded layer what it does with a whole one; all processes do it.

    Raises:
        ZooError: it cannot, or comes to other weights.
    """
    layers = []
    for sharded in (False, True):
        layer: nn.Module = nn.Linear(8, 6, device=device)
        for name in ("0", "layers", "core"):  # named as in a model
            layer = nn.Sequential(OrderedDict({name: layer}))
        for parameter in layer.parameters():
            parameter.data = torch.linspace(-1.0, 1.0, parameter.numel(), device=device).view_as(parameter)
        gradients = [parameter.detach().square().sin() for parameter in layer.parameters()]
        if sharded:
            shard_model(layer, (), device)
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = like_sharded(gradient, parameter)
        try:
            make_optimizer(train, layer).step()
        except (RuntimeError, NotImplementedError) as error:
            said = str(error).strip().splitlines()[0]
            raise ZooError(f"train.optimizer does not work on weights that are shared out (FSDP2): {said}") from error
        layers.append([whole(parameter.detach()) for parameter in layer.parameters()])
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*layers, strict=True)):
        raise ZooError(
            "train.optimizer comes to other weights where they are shared out (FSDP2). torch.optim.AdamW and the "
            "classes of pretraining.optim do not; or start the run with configs/accelerate/ddp-8.yaml."
        )


def with_vocabulary(config: CoreConfig, vocabulary: Vocabulary) -> CoreConfig:
    """The core's config with the tokenizer's size and padding id.

    Raises:
        ZooError: the model has fewer rows than the tokenizer has tokens.
    """
    pad = vocabulary.pad if vocabulary.pad is not None else config.pad_token_id
    if config.vocab_size is not None and config.vocab_size < vocabulary.size:
        raise ZooError(
            f"the tokenizer has {vocabulary.size} tokens but model.vocab_size is {config.vocab_size}: set "
            f"model.vocab_size to {vocabulary.size} (or null), or train a tokenizer with data.tokenizer.vocab_size = "
            f"{config.vocab_size}."
        )
    return config.replace(vocab_size=config.vocab_size or vocabulary.size, pad_token_id=pad)


def frequency_loss(store: Store, shown: tuple[float, float] = (0.0, 0.0)) -> float:
    """Loss, in nats a target, of knowing token frequencies and what stands at the target's own position.

    Without the second this is the unigram entropy. But a masked language model reads some targets (BERT: 10 % stay as
    they are, 10 % become random tokens), and a model that takes over what it reads, as often as that is right, is half
    a nat below the unigram entropy without having learned anything of the context.

    Args:
        store: the prepared text, with its counts.
        shown: shares of targets at whose position a uniformly random token stands, and the target itself.
    """
    counts = np.asarray(store.counts, dtype=np.float64)
    shares = counts / max(counts.sum(), 1.0)
    minus_logs = -np.log(np.where(shares > 0, shares, 1.0))
    entropy = float(shares @ minus_logs)
    random, keep = shown
    if not random and not keep:
        return entropy
    read = keep * shares + random / len(shares)  # chance that a token is read at a target
    drawn = random / len(shares) / np.where(read > 0, read, 1.0)  # chance that it was drawn, so tells nothing
    right = 1 - drawn * (1 - shares)  # chance that it is the target: kept, or drawn by chance
    others = drawn * ((1 - shares) * _minus_log(drawn) + entropy - shares * minus_logs)
    return (1 - random - keep) * entropy + float(read @ (right * _minus_log(right) + others))


def _minus_log(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log(np.where(chances > 0, chances, 1.0))
