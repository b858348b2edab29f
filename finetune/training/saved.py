"""A kept task network on frozen layers, asked again: no class of transformers reads texts the way it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.tasks import Task
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from zoo.errors import ZooError
from zoo.model_folder import load_head, read_metadata
from zoo.storage.files import read_json


class SavedFeatures:
    """A model folder that ``--use features --save_model true`` wrote.

    Args:
        folder: the folder.

    Attributes:
        labels: names of the classes.

    Raises:
        ZooError: the folder holds no task network.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        heads = read_metadata(self._folder).heads
        network, mixes = heads.get("classifier", {}), heads.get("mixes", {})
        if network.get("kind") != "features" or mixes.get("kind") != "mixes":
            have = ", ".join(f"{name} ({head['kind']})" for name, head in heads.items()) or "none"
            raise ZooError(
                f"{folder} has no task network on frozen layers; its heads are: {have}. A fine-tuned model opens "
                "with `import zoo.hf` and AutoModelForSequenceClassification."
            )
        self.labels: list[str] = list(network["labels"])
        columns = ("text", "pair") if network["pair"] else ("text",)
        self._task = Task(name="saved", columns=columns, labels=tuple(self.labels))
        stored = read_json(self._folder / "tokenizer_config.json")
        self._settings = FinetuneSettings(
            use="features",
            max_length=int(stored["model_max_length"]),
            features=FeatureSettings(
                mixes=mixes["mixes"], layer_norm=mixes["layer_norm"], hidden_size=network["hidden_size"], cache_mb=0
            ),
        )

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float64]:
        """(N, labels) probabilities of N texts, or of N pairs.

        Raises:
            ZooError: a pair is asked of a network for single texts, or the other way round.
        """
        if (pairs is not None) != self._task.pair:
            wanted = "pairs of texts" if self._task.pair else "single texts"
            raise ZooError(f"{self._folder} was trained on {wanted}.")
        count = len(texts)
        rows = LabelledTexts(
            list(texts),
            None if pairs is None else list(pairs),
            np.zeros(count, np.int64),
            numbers=np.arange(count),
            skipped=0,
            source="texts given to predict",
        )
        prepared = PreparedTask(self._folder, self._task, TaskSplits(rows, rows), self._settings)
        model = prepared.model(0)
        for name, module in model.heads.items():
            load_head(self._folder, name, module)
        return np.asarray(predict(model, prepared))


def open_features(folder: str | Path) -> SavedFeatures:
    """The task network of a model folder, and the frozen core below it."""
    return SavedFeatures(folder)
