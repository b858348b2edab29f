"""A hub that does not answer is asked once, wherever something may come from it."""

import pytest

from zoo.errors import ZooError


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that does not answer; the list counts who asked."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    class Session:
        def head(self, url, **options):
            asked.append((url, options))
            raise OSError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    return asked


@pytest.mark.parametrize("what", ["model", "tokenizer", "corpus", "task"])
def test_a_hub_that_does_not_answer_is_asked_once(no_hub, what):
    from finetune.data.tasks import shipped_tasks
    from finetune.kinds.load import load_task
    from pretraining.corpus.chunks import load_hub
    from pretraining.corpus.config import CorpusConfig
    from zoo.weights.files import find_folder, stock_tokenizer

    calls = {
        "model": lambda: find_folder("nobody/nothing-here"),
        "tokenizer": lambda: stock_tokenizer("nobody/nothing-here"),
        "corpus": lambda: load_hub("nobody/nothing-here", CorpusConfig(files="nobody/nothing-here")),
        "task": lambda: load_task(shipped_tasks()["sst2"], "hub", None),
    }
    for _ in range(2):
        with pytest.raises(ZooError, match="cannot be reached"):
            calls[what]()
    assert [options for _, options in no_hub] == [{"timeout": 5}]
