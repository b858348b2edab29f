"""``python -m pretraining``: everything a user can mend is checked, then the run trains to its end."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from accelerate import Accelerator

from pretraining.training.assemble import check_optimizer
from pretraining.training.checks import (
    accumulation_of,
    check_data,
    check_layouts,
    check_memory_needed,
    check_objectives,
    check_run_folder,
    check_weights,
    is_finished,
)
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import run_folder_of
from pretraining.training.run import Run
from pretraining.training.state import idle_notes
from pretraining.training.stores import run_stores
from zoo.model_folder import weights_digest
from zoo.runtime.locks import run_lock
from zoo.runtime.processes import (
    check_shared_folder,
    errors_on_all_ranks,
    leave_group_together,
    resolve_precision,
    start_processes,
)
from zoo.runtime.sharding import requested_sharding
from zoo.runtime.signals import stop_on_sigterm
from zoo.settings.load import Settings
from zoo.storage.object_store import RunMirror


def pretrain(settings: Settings[PretrainConfig], show: bool = True) -> Path:
    """Run, or continue, or recognise as finished, the run that ``settings`` describe.

    Args:
        settings: from :func:`pretraining.training.load_config.load_pretrain_config`.
        show: progress on standard error.

    Returns:
        the run folder, which is a model folder.

    Raises:
        ZooError: anything a user can mend, before training starts.
        Stopped: SIGTERM came; the state is saved.
    """
    config, folder = settings.value, run_folder_of(settings)
    train, sharded = config.train, requested_sharding()
    accelerator = start_processes(resolve_precision(train.precision), train.threads, train.trackers, folder)
    with leave_group_together(), stop_on_sigterm() as stop, contextlib.ExitStack() as stack:
        stores = mirror = None
        with errors_on_all_ranks(accelerator):
            if accelerator.is_main_process:
                stack.enter_context(run_lock(folder))
                mirror = None if config.mirror is None else RunMirror(config.mirror, folder)
                if mirror is not None and mirror.restore() and show:
                    print(f"the run goes on from {mirror.url}", file=sys.stderr, flush=True)
                check_settings(settings, folder, accelerator.num_processes)
                for line in idle_notes(config) if show else ():
                    print(line, file=sys.stderr, flush=True)
                stores = run_stores(config, show)
                check_data(folder, stores)
                if config.init_from is not None and is_finished(folder):
                    check_weights(folder, config.init_from.model, weights_digest(Path(config.init_from.model)))
        check_shared_folder(accelerator, folder)
        if is_finished(folder):
            send_last(mirror, accelerator)
            if show and accelerator.is_main_process:
                print(f"{folder} is finished already.", flush=True)
            return folder
        with errors_on_all_ranks(accelerator):
            run = Run(settings, folder, accelerator, stores or run_stores(config, False), show, sharded)
        run.mirror = mirror
        run.resume()
        run.loop(stop)
        run.finish()
        send_last(mirror, accelerator)
    return folder


def send_last(mirror: RunMirror | None, accelerator: Accelerator) -> None:
    """Send what a finished run's copy lacks; every process takes part.

    Raises:
        ZooError: the store cannot be written. The run folder is whole, and the same command tries again.
    """
    with errors_on_all_ranks(accelerator):
        if mirror is not None:
            mirror.push()


def check_settings(settings: Settings[PretrainConfig], folder: Path, processes: int) -> None:
    """What can be known without the text.

    Args:
        settings: the run's.
        folder: its folder.
        processes: that share it.

    Raises:
        ZooError: what a user can mend.
    """
    config, train = settings.value, settings.value.train
    check_run_folder(folder, settings)
    check_layouts(config)
    accumulation_of(train.batch_size, train.micro_batch_size, processes)
    check_memory_needed(config, processes)
    check_objectives(config)
    check_optimizer(train, any(objective.sparse_gradients for objective in config.objectives.values()))
