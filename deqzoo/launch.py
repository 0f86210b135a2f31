"""The command line around ``train.py``: help page, Hydra, errors told in a sentence. Imports no torch."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from deqzoo import signals
from deqzoo.errors import Stopped, written_for_users
from deqzoo.paths import first_line, zoo_path

_HELP = """\
deqzoo: train and test the implicit models of the zoo.

  python train.py                                        train {default} on two CPU cores, in about a minute
  python train.py model=deq_cifar data.root=DIR          train another entry
  python train.py model=NAME mode=test ckpt=pretrained   test its shipped weights on the full test set
  python train.py model=NAME resume=last                 go on with a run that was cut off
  python train.py -m model.solver=anderson,broyden,picard   one run for each value
  python train.py model=NAME --help                      this page and the entry's recipe
  python train.py model=NAME --cfg job                   every setting, with its value

Entries (model=NAME)
{models}

Data sets (data=NAME; data.root=DIR is where their files lie)
{data}

Settings (NAME=VALUE)
  model.solver=NAME        of the forward pass. Fixed points: anderson, broyden, picard, newton, newton_krylov;
                           of monDEQs also peaceman_rachford, forward_backward. ODEs:
                           tsit5, dopri5, dopri8, bosh3, kvaerno3 (stiff); rk4, midpoint, heun, euler (fixed steps)
  model.solver_options.tol=1e-3
                           its options: tol, max_steps, ..., of ODEs rtol, atol, max_steps or step_size (a wrong
                           one is told the right ones)
  model.adjoint=implicit   of fixed points: implicit, phantom, one_step, unrolled; options in model.adjoint_options
  model.adjoint=discrete   of ODEs: discrete, backsolve, direct; options in model.adjoint_options
  model.lr=..., model.widths=[..], ...   any line of the recipe
  trainer.max_epochs=..    Lightning's own: max_steps, accelerator, devices, strategy, precision, ...
  seed=0                   of weights, data order, augmentation and dropout
  mode=fit                 fit (train, test, export) or test
  ckpt=pretrained          or a path: the weights to test, or to start training from; of a classifier of other
                           classes all but its last layer
  model.train_only=[head.*]  names of the parameters that are trained, * and ?; the others stay as they are
  stages=[]                skip what the recipe trains first (its `stages`)
  resume=last              or a run's folder: continue there, to the same result
  logger=csv               csv, or beside it wandb (WANDB_MODE=offline works) or tensorboard
  threads=1                of the CPU
  tf32=true                faster products in float32 on a GPU, rounded to ten bits
  save_every_n_steps=100   how often last.ckpt is written
  hydra.run.dir=DIR        the run's folder; else outputs/ENTRY/DATE_TIME

A run's folder holds config.yaml, metrics.json, metrics.csv, last.ckpt, plots/ and export/, a checkpoint
folder that `deqzoo.load` takes."""

_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def launch(main: Callable[[Any], Any]) -> None:
    """Run ``main`` on the configuration that the command line composes; after a sweep, compare its results.

    ``--help`` is answered before Hydra is imported. A mistake of the user's ends with one sentence and exit
    code 1; ``HYDRA_FULL_ERROR=1`` shows the traceback. Ctrl-C ends with code 130, SIGTERM with 143.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_page(sys.argv[1:]))
        return
    signals.install()
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    results: list[Any] = []
    try:
        _run(main, results)
    except Stopped as stopped:
        print(f"\n{stopped.told}", file=sys.stderr)
        sys.exit(stopped.code)
    except (Exception, _Failed) as failed:
        error: Any = failed.__cause__ if isinstance(failed, _Failed) else failed
        sentence = None if wants_traceback else _sentence(error, started=isinstance(failed, _Failed))
        if sentence is None:
            raise error from None
        sys.exit(f"Error: {sentence}")
    if len(results) > 1:
        from deqzoo.training.report import report_sweep

        report_sweep(results)


class _Failed(BaseException):
    """Around an error of a run: of an `Exception` Hydra would print a line of its own."""


def _run(main: Callable[[Any], Any], results: list[Any]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from deqzoo import config

    @wraps(main)
    def collecting(settings: Any) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                _announce(settings, folder, HydraConfig.get().overrides.task)
            results.append(main(settings))
        except Exception as error:
            raise _Failed from error
        finally:
            _remove_if_empty(folder)

    sys.argv[1:] = config.current_words(sys.argv[1:])
    config.register(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=None, config_name="run")(collecting)()


def _announce(settings: Any, folder: Path, words: list[str]) -> None:
    """The first line, before torch is imported."""
    from deqzoo import config

    if settings.resume:  # its entry and seed are the earlier run's
        settings = config.load_run(folder, words)
    if settings.trainer.enable_progress_bar:
        print(f"{settings.entry}: mode={settings.mode.name}, seed={settings.seed}, in {folder}", flush=True)


def _remove_if_empty(folder: Path) -> None:
    """A start that fails leaves no folder, nor those above it that it made."""
    while folder != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _sentence(error: Exception, started: bool) -> str | None:
    """What a user is told of an error; None: a fault of ours, whose traceback is wanted.

    Before a run has ``started``, the only folder to be missing is one that was to be made.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from deqzoo import config

    if isinstance(error, HydraException | OmegaConfBaseException):
        return config.explain(error)
    if written_for_users(error):
        return str(error)
    if not started and _raised_by_hydra(error):
        return f"the command line cannot be read: {error}. Each word is NAME=VALUE; --help lists the names."
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full ({error.filename}). Free some space; `resume=last` goes on from the last checkpoint."
    if isinstance(error, OSError) and error.filename and _is_unwritable(error, started):
        return f"{error.filename} cannot be written: {error.strerror}. Give another hydra.run.dir (or data.root)."
    return None


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether it was raised in Hydra's own code, which reads the command line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__", "").startswith("hydra.")


def _is_unwritable(error: OSError, started: bool) -> bool:
    return error.errno in _UNWRITABLE or (not started and error.errno == errno.ENOENT)


def help_page(arguments: list[str]) -> str:
    """The help page; with ``model=NAME`` among the arguments, that entry's recipe as well."""
    page = _HELP.format(default="deq_digits", models=_entries("models"), data=_entries("data"))
    for word in arguments:
        recipe = zoo_path("models") / f"{word.removeprefix('model=')}.yaml"
        if word.startswith("model=") and recipe.is_file():
            page += f"\n\nmodels/{recipe.name}\n\n{recipe.read_text().rstrip()}"
    return page


def _entries(group: Any) -> str:
    files = sorted(zoo_path(group).glob("*.yaml"))
    width = max((len(path.stem) for path in files), default=0)
    return "\n".join(f"  {path.stem:{width}}  {first_line(path)}" for path in files)
