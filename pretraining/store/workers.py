"""Worker processes that turn chunks into shards (``python -m pretraining.store.workers`` starts one)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from pretraining.annotations.base import make_annotator
from pretraining.corpus.chunks import Chunk
from pretraining.corpus.config import CorpusConfig
from pretraining.store.recipe import Recipe
from pretraining.store.shards import write_shard
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError


def recipe_from(spec: dict[str, Any]) -> Recipe:
    """The worker's side of :meth:`ShardBuilder._spec`."""
    annotators = {
        name: make_annotator(own, f"corpus.annotations.{name}") for name, own in spec["corpus"]["annotations"].items()
    }
    corpus = CorpusConfig(**{**spec["corpus"], "annotations": annotators})
    return Recipe(corpus, load_tokenizer(spec["tokenizer"]), spec["joins"])


class Workers:
    """Worker processes behind threads; with one process the work is done here.

    They are plain subprocesses that read chunks from a pipe: nothing of the parent's state is forked,
    its main module is not imported again, and they end when the parent does, however it ends.
    """

    def __init__(self, spec: dict[str, Any], processes: int) -> None:
        self._spec, self._processes = spec, processes
        self._pool = ThreadPoolExecutor(processes)
        self._own = threading.local()
        self._children: list[subprocess.Popen[bytes]] = []
        self._recipe = recipe_from(spec) if processes == 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(wait=failure[0] is None, cancel_futures=True)
        for child in self._children:
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
        for child in self._children:
            if failure[0] is not None:
                child.kill()
            child.wait()

    def submit(self, chunk: Chunk, path: Path) -> Future[None]:
        """Turn a chunk into a shard file."""
        return self._pool.submit(self._here if self._recipe is not None else self._there, chunk, path)

    def _here(self, chunk: Chunk, path: Path) -> None:
        assert self._recipe is not None
        write_shard(path, self._recipe.run(chunk))

    def _there(self, chunk: Chunk, path: Path) -> None:
        if not hasattr(self._own, "child"):
            self._own.child = self._start()
        child = self._own.child
        head = {**dataclasses.asdict(dataclasses.replace(chunk, data=b"")), "path": str(path), "bytes": len(chunk.data)}
        del head["data"]
        try:
            child.stdin.write(json.dumps(head).encode() + b"\n")
            child.stdin.write(chunk.data)
            child.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; the empty answer below says so
        line = child.stdout.readline()
        if not line:
            raise ZooError(
                f"a worker process died (exit code {child.wait()}) on {chunk.file}:{chunk.line}; out of memory is the "
                "usual reason: fewer processes need less. Finished parts are kept."
            )
        answer = json.loads(line)
        if answer.get("errno"):
            raise OSError(answer["errno"], answer["error"], str(path))
        if answer.get("error"):
            raise (ZooError if answer["expected"] else RuntimeError)(answer["error"])

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "pretraining.store.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=False,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(self._spec).encode() + b"\n")
        child.stdin.flush()
        self._children.append(child)
        return child


def work(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """A worker's life: one JSON line and the chunk's bytes in, one JSON line out, until the pipe closes."""
    recipe: Recipe | None = None
    spec = json.loads(stdin.readline())
    while line := stdin.readline():
        head = json.loads(line)
        path, size = Path(head.pop("path")), head.pop("bytes")
        data = stdin.read(size)
        if len(data) < size:
            return  # the parent was killed
        answer: dict[str, Any] = {}
        try:
            recipe = recipe or recipe_from(spec)
            write_shard(path, recipe.run(Chunk(data, **head)))
        except ZooError as error:
            answer = {"error": str(error), "expected": True}
        except OSError as error:
            answer = {"error": error.strerror or str(error), "expected": False, "errno": error.errno or 5}
        except Exception as error:
            answer = {"error": "".join(traceback.format_exception(error)), "expected": False}
        stdout.write(json.dumps(answer).encode() + b"\n")
        stdout.flush()


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer)
