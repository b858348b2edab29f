"""Compiled training steps: the layers of a core as one graph, which every layer, task and step shares.

What varies from batch to batch never reaches the graph. Embeddings, heads and losses stay outside, and so the numbers
of targets with them; rows are padded to one length; a layer is told its places for dropout by a tensor. So the graph
of a batch depends on the batch alone, and a resumed run repeats bit for bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch.nn import functional

from zoo.attention.context import AttentionContext
from zoo.core.functions import LayerCall, LayerOutput, call_layer
from zoo.core.transformer import Layer, Transformer
from zoo.inputs import CoreInputs, CoreOutput

_SHORTEST = 3 / 4  # of the full length: shorter batches run uncompiled, which costs less than padding them
WHY_NOT_RECURRENT = "a recurrent core reads token by token, which a compiler would unroll for every length."
WHY_NOT_HERE = (
    "ATEN_CPU_CAPABILITY is set. Compiled code is for the whole processor, and beside torch's code for a part of it "
    "losses were no numbers."
)
_QUERIES = 8  # a second stream is padded to a multiple of so many states
_OUTPUTS = 1 / 4  # of the full length: a last layer computes so many states, or none of the first stream, or all


class CompiledCore:
    """Stands in for a core: its layers are compiled in training steps. Whatever fails, they run uncompiled, and say so.

    Args:
        core: the core.
        length: tokens of a full row.
        note: takes a line about each compilation, and about a failure.
        backend: of torch.compile: a name, or a function that takes a graph and its inputs.

    Attributes:
        compilations: graphs compiled so far.
        failed: whether layers run uncompiled from now on.
    """

    def __init__(
        self,
        core: Transformer,
        length: int,
        note: Callable[[str], None],
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.core, self.length, self.note = core, length, note
        self.compilations, self.failed = 0, False
        self._tried: set[Any] = set()
        self._good: set[Any] = set()  # what compiled goes on so: a layer that is recomputed saves what it saved before
        compiler = torch._dynamo.lookup_backend(backend)
        on_cpu = next(core.parameters()).device.type == "cpu"
        if backend == "inductor" and on_cpu and os.environ.get("ATEN_CPU_CAPABILITY"):
            self.failed = True
            note(f"note: train.compile: the layers run uncompiled: {WHY_NOT_HERE}")

        def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
            self.compilations += 1
            return compiler(graph, inputs)

        self._compiled: LayerCall = torch.compile(call_layer, fullgraph=True, dynamic=False, backend=counted)

    def __call__(self, inputs: CoreInputs, state: Any = None) -> CoreOutput:
        """As the core's: states of the rows as they were given, whatever was added to them."""
        training = self.core.training and torch.is_grad_enabled()
        if self.failed or not training or not self._suits(inputs, state):
            return self.core(inputs, state)
        length, query = inputs.input_ids.shape[1], inputs.query
        self.core.run_layer = self._run_layer
        try:
            output: CoreOutput = self.core(self._padded(inputs), state)
        finally:
            self.core.run_layer = call_layer
        queries = None if query is None or output.query_states is None else query.positions.shape[1]
        return output._replace(
            last_hidden_state=output.last_hidden_state[:, :length],
            query_states=None if output.query_states is None else output.query_states[:, :queries],
        )

    def _suits(self, inputs: CoreInputs, state: Any) -> bool:
        """Whether a batch has the shapes that are compiled; a function of the batch, so that runs repeat."""
        length, config, pattern = inputs.input_ids.shape[1], self.core.config, inputs.attention_pattern
        if inputs.decoder is not None:  # targets have lengths of their own
            return False
        if config.reversible:  # its layers are one function, with a backward pass of its own
            return False
        if length == self.length:
            remembered = state["memory_0"].shape[1] if isinstance(state, dict) and "memory_0" in state else 0
            return remembered == (config.mem_len or 0)  # a memory fills in the first steps of an epoch
        if self.core.relative is not None or pattern.dense is not None:
            return False
        return _SHORTEST * self.length <= length < self.length

    def _padded(self, inputs: CoreInputs) -> CoreInputs:
        """Rows of the full length, and attention that reads a mask where one costs next to nothing."""
        more, pattern = self.length - inputs.input_ids.shape[1], inputs.attention_pattern
        lengths = pattern.lengths
        if (
            lengths is None
            and not pattern.causal
            and self.core.relative is None
            and (more or self._reads_masks(inputs))
        ):
            lengths = torch.full_like(inputs.input_ids[:, 0], inputs.input_ids.shape[1])
        inputs = inputs._replace(attention_pattern=pattern._replace(lengths=lengths))
        if inputs.query is not None:
            inputs = _pad_queries(inputs)
        inputs = inputs._replace(output_positions=self._outputs(inputs.output_positions))
        if not more:
            return inputs
        documents = pattern.documents
        if documents is not None:  # a document of its own
            documents = functional.pad(documents, (0, more), value=-1)
        by_token = ("input_ids", "token_type_ids", "task_type_ids", "position_ids", "entity_ids")
        values = {name: getattr(inputs, name) for name in by_token}
        padded: dict[str, Any] = {
            n: functional.pad(x, (0, more)) for n, x in values.items() if x is not None and x.ndim == 2
        }
        return inputs._replace(attention_pattern=inputs.attention_pattern._replace(documents=documents), **padded)

    def _outputs(self, positions: Tensor | None) -> Tensor | None:
        """Positions whose last states are computed: one number of them, so that one graph serves."""
        limit = int(_OUTPUTS * self.length)
        if positions is None or positions.shape[1] > limit or self.core.config.fusion is not None:
            return None
        return (
            positions
            if positions.shape[1] == 0
            else functional.pad(positions, (0, limit - positions.shape[1]), value=-1)
        )

    def _reads_masks(self, inputs: CoreInputs) -> bool:
        """Whether attention writes its probabilities, where one mask more saves a graph without."""
        config = self.core.config
        dropped = inputs.dropout_keys is not None and config.attention_probs_dropout_prob > 0.0
        return dropped or config.fusion is not None

    def _run_layer(
        self, layer: Layer, hidden: Tensor, shared: AttentionContext, site: int, entities: Tensor | None
    ) -> LayerOutput:
        if entities is not None and not entities.requires_grad:  # those before the first layer; one graph serves all
            entities = entities.detach().requires_grad_()
        if (
            shared.rows is not None and shared.distances is None and shared.mask.allowed is None
        ):  # it costs nothing here
            everywhere = torch.ones(len(hidden), 1, 1, hidden.shape[1], dtype=torch.bool, device=hidden.device)
            shared = shared._replace(mask=shared.mask._replace(allowed=everywhere))
        arguments = (hidden, shared, torch.full((), site, device=hidden.device), entities)
        kind = (None if layer.fusion is None else layer.fusion.read, tuple(_shapes(arguments)))
        # An error ends the compiling, not the run; one of the layer's own comes again where the layer runs uncompiled.
        with torch._dynamo.config.patch(
            optimize_ddp=False, recompile_limit=64
        ):  # a layer is as small as gradients are exchanged
            if kind not in self._tried and not self.failed:
                self._tried.add(kind)
                try:
                    self._try(layer, *arguments)
                    self._good.add(kind)
                except Exception as error:
                    self._give_up(error)
            if kind in self._good:
                try:
                    return self._compiled(layer, *arguments)
                except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                    self._give_up(error)
        return call_layer(layer, hidden, shared, site, entities)

    def _try(self, layer: Layer, hidden: Tensor, *more: Any) -> None:
        """Compile both passes where an error can be met: torch compiles the backward pass when it is first called."""
        before, start = self.compilations, time.monotonic()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):  # a recomputed layer has its own
            trial = hidden.detach().requires_grad_()
            output, *_ = self._compiled(layer, trial, *more)
            torch.autograd.grad(output.sum(), trial)
        if self.compilations > before:
            self.note(f"a layer was compiled in {time.monotonic() - start:.0f} s ({self.compilations} so far)")

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        self.note(f"note: train.compile: the layers run uncompiled: {_in_a_line(error)}")


def _shapes(value: Any) -> Iterator[tuple[int, ...] | None]:
    """Shapes of the tensors in nested tuples, in order."""
    if isinstance(value, tuple):
        for item in value:
            yield from _shapes(item)
    else:
        yield tuple(value.shape) if isinstance(value, Tensor) else None


def _pad_queries(inputs: CoreInputs) -> CoreInputs:
    """The second stream with states that nobody reads at its end."""
    query = inputs.query
    assert query is not None
    more = -query.positions.shape[1] % _QUERIES
    dense, states = query.attention_pattern.dense, query.hidden_states
    return inputs._replace(
        query=query._replace(
            positions=functional.pad(query.positions, (0, more)),
            attention_pattern=query.attention_pattern._replace(
                dense=dense if dense is None or dense.shape[1] == 1 else functional.pad(dense, (0, 0, 0, more))
            ),
            hidden_states=None if states is None else functional.pad(states, (0, 0, 0, more)),
        )
    )


def _in_a_line(error: Exception) -> str:
    """What went wrong."""
    if "No working C++ compiler" in str(error):
        return "no C++ compiler was found that works; install g++, or let the variable CXX name another."
    inner = getattr(error, "inner_exception", error)  # torch's own frame says which backend it was
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
