"""Rows that are made ahead are those that would be made on demand, after a kill too, and errors come in their step."""

import threading

import pytest
import torch
from training import Killed, arguments, outcome, train, write_corpus
from waits import waits_of_step

from pretraining.objectives.masked_lm import MaskedLM
from pretraining.training.batches import BatchMaker
from pretraining.training.run import Run
from pretraining.training.step import Trainer
from zoo.errors import ZooError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    write_corpus(folder, documents=6)
    return folder


def test_tasks_that_take_turns_by_tokens_are_known_ahead(place, monkeypatch, tmp_path):
    """Which task is next depends on what this step reads. Other tests kill runs that are prefetched."""
    more = {
        "tasks.others.layout.class_path": "pretraining.layouts.FullSentences",
        "tasks.others.objectives": "[masked_lm]",
        "stages.first.until": 0.4,
        "stages.first.tasks.pairs": 1.0,
        "stages.second.until": 1.0,
        "stages.second.tasks": "{pairs: 1, others: 2}",
        "train.steps": "null",
        "train.tokens": 4000,
        "train.validate_every": 0,
    }
    argv, prepared, prepare = arguments(place, "bert", **more), [], BatchMaker.prepare

    def note(self, wanted):
        prepare(self, wanted)
        prepared.append(wanted)

    taken, take = [], BatchMaker.take
    monkeypatch.setattr(BatchMaker, "prepare", note)
    monkeypatch.setattr(BatchMaker, "take", lambda self, wanted: (taken.append(wanted), take(self, wanted))[1])
    folders = []
    for prefetch in ("no", "yes"):
        prepared.clear()
        taken.clear()
        folders.append(train([*argv, "--output", str(tmp_path / prefetch), "--train.prefetch", prefetch]))
    assert outcome(folders[0]) == outcome(folders[1])
    assert prepared == taken[1:]
    assert {rows.task for rows in prepared} == {"pairs", "others"}


def test_rows_are_made_in_the_thread_and_their_error_comes_in_their_step(place, monkeypatch, tmp_path):
    corrupt, threads, steps, step = MaskedLM.corrupt, [], [], Trainer.train_step

    def fail(self, rows, draw):
        threads.append(threading.current_thread())
        if len(threads) == 4:
            raise ZooError("row 7 is damaged.")
        return corrupt(self, rows, draw)

    def note(self, stop):
        steps.append(self.state.counters.step)
        return step(self, stop)

    monkeypatch.setattr(MaskedLM, "corrupt", fail)
    monkeypatch.setattr(Trainer, "train_step", note)
    argv = [*arguments(place, "bert", output=tmp_path), "--train.prefetch", "yes"]
    with pytest.raises(ZooError, match=r"row 7 is damaged\."):
        train(argv)
    assert steps == [0, 1, 2, 3]
    assert threads[0] is threading.main_thread()
    assert threading.main_thread() not in threads[1:]


def test_rows_that_were_made_for_another_step_are_forgotten(place, monkeypatch, tmp_path):
    """As after steps that are measured and thrown away."""
    found = {}

    def compare(self, stop):
        trainer = self.trainer
        expected = trainer.batches.take(trainer.next_rows())
        trainer.batches.prepare(trainer.next_rows()._replace(offset=3))
        again = trainer.batches.take(trainer.next_rows())
        found["same"] = torch.equal(expected.batches[0].inputs.input_ids, again.batches[0].inputs.input_ids)
        found["cursor"] = expected.cursor == again.cursor
        raise Killed

    monkeypatch.setattr(Run, "loop", compare)
    with pytest.raises(Killed):
        train([*arguments(place, "bert", output=tmp_path), "--train.prefetch", "yes"])
    assert found == {"same": True, "cursor": True}


@pytest.mark.parametrize("family", ["bert", "transformer-xl"])
def test_no_step_waits_for_a_figure_of_its_own(place, family, monkeypatch, tmp_path):
    """ELMo's does: it reads each different word of a batch once. XLNet looks for empty rows, on a CPU only."""
    waits, step = [], Trainer.train_step

    def watched(self, stop):
        with waits_of_step(self) as found:
            result = step(self, stop)
        waits.append(found)
        return result

    monkeypatch.setattr(Trainer, "train_step", watched)
    train(arguments(place, family, 2, output=tmp_path, **{"train.validate_every": 0, "train.log_every": 9}))
    assert waits == [[], []]
