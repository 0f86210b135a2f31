"""The course of one run: from a configuration to a folder of results."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger as LightningLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from deqzoo.atomic import whole_file
from deqzoo.config import Logger, Mode, RunConfig, load_run, to_plain
from deqzoo.data.kinds import make_data
from deqzoo.errors import ConfigError, Stopped
from deqzoo.models import NonFiniteError, build_network
from deqzoo.models.common.kind import Kind, Trained
from deqzoo.models.common.options import settings_errors
from deqzoo.models.registry import kind_of
from deqzoo.signals import BetweenSteps
from deqzoo.training.as_recipe import warn_of_changes
from deqzoo.training.callbacks import LastCheckpoint, SeedSteps
from deqzoo.training.device import choose_tf32, devices, hardware, precision, quiet_lightning, speed_up, versions
from deqzoo.training.history import History, read_history
from deqzoo.training.limits import timer, within_limits
from deqzoo.training.progress import RunProgress
from deqzoo.training.report import report
from deqzoo.training.settings_checks import checked
from deqzoo.training.stages import stage_config
from deqzoo.training.weights import earlier_training, initial_weights, of_training
from deqzoo.zoo import export
from deqzoo.zoo.baseline import find_baseline
from deqzoo.zoo.folder import METRICS
from deqzoo.zoo.loading import round_weights


class Run:
    """One run. Its steps: `fit`, `test`, `export`, `report`; with mode=test, `fit` and `export` do nothing.

    Args:
        config: the composed configuration (see `deqzoo.config.RunConfig`).
        folder: the run's folder, ``outputs/ENTRY/DATE_TIME``.
        whole: of a stage, the folder of the run that it belongs to: what to resume.
    """

    def __init__(self, config: DictConfig, folder: Path, whole: Path | None = None) -> None:
        self.folder, self.whole = folder, whole or folder
        self.config = config
        self.settings: RunConfig = checked(config, folder)
        self.checkpoint = folder / "last.ckpt"
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        choose_tf32(self.settings.tf32)
        self.kind = kind_of(self.settings.model.kind)
        self.data = make_data(self.settings.data, self.settings.seed)
        _check_that_data_fit(self.settings, self.kind, self.data)
        torch.manual_seed(self.settings.seed)
        network = build_network(self.settings.model, self.data.info)
        with settings_errors():
            self.module = self.kind.module(network, self.settings.model)
        if self.settings.ckpt is not None and self.settings.resume is None:
            training = self.settings.mode is Mode.fit
            initial_weights(self.module, self.settings.ckpt, self.settings.entry, new_head=training)
        for part in {self.module.network, self.module.trained_network}:
            speed_up(part, self.settings.model, self.settings.trainer)
        self.timer = timer(self.settings.trainer.max_time)
        self.device = torch.device("cpu")
        self.metrics: dict[str, Any] = {}
        if self.settings.mode is Mode.fit and self.settings.ckpt is not None:
            self.metrics["started_from"] = earlier_training(self.settings.ckpt, self.settings.entry)

    @classmethod
    def start(cls, config: DictConfig) -> "Run":
        """The run that Hydra's command line asks for; a resumed one has the settings of its config.yaml."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        if config.resume:
            asked, config = config.entry, load_run(folder, overrides)
            if asked != config.entry and any(word.startswith("model=") for word in overrides):
                raise ConfigError(f"{folder} is a run of {config.entry}, not of {asked}: leave out model={asked}.")
            config.overrides = [*config.overrides, *overrides]
            warn_of_changes(config)
        else:
            config.overrides = [*config.overrides, *overrides]
        return cls(config, folder)

    def fit(self) -> None:
        """Train, the recipe's stages first, or go on with training from ``last.ckpt``."""
        if self.settings.mode is not Mode.fit:
            return
        signals = BetweenSteps()
        callbacks: list[Callback] = [
            LastCheckpoint(self.checkpoint, self.settings.save_every_n_steps, signals),
            SeedSteps(self.settings.seed),
            self.timer,
            *self._progress(),
        ]
        with quiet_lightning():
            trainer = self._trainer(self._loggers(), callbacks, precision(self.settings.trainer))
        self._read_data()
        words = self.settings.stages if self.settings.ckpt is None else []
        stages = [stage_config(self.settings.entry, stage, self.settings.overrides) for stage in words]
        self._write("config.yaml", OmegaConf.to_yaml(OmegaConf.merge(self.config, {"resume": None})))
        if stages:
            self._train_stages(stages)
        resumed = str(self.checkpoint) if self.checkpoint.is_file() else None
        try:
            with quiet_lightning(), signals:
                trainer.fit(self.module, datamodule=self.data, ckpt_path=resumed, weights_only=True)
                if signals.asked is not None:  # after the last step
                    raise Stopped(signals.asked, "Stopped after the training.")
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} {self._last_good()}") from error
        except (Stopped, SystemExit) as error:  # Lightning has an exit of its own for SIGTERM
            signum = error.signum if isinstance(error, Stopped) else signals.asked
            if signum is None:
                raise
            told = error.told if isinstance(error, Stopped) else "Stopped."
            raise Stopped(signum, f"{told} {self._goes_on()}") from None
        if validated := _of_stage("val", trainer.callback_metrics):  # else training had been done already
            self.metrics["val"] = validated
        self.metrics["steps"] = trainer.global_step

    @rank_zero_only
    def _read_data(self) -> None:
        """Before anything is written: where the data are missing, the folder stays free for the next try."""
        self.data.prepare_data()
        self.data.setup("fit")

    def _train_stages(self, stages: Sequence[DictConfig]) -> None:
        """Train what the recipe trains first, each stage from the weights of the one before, in ``stage_1`` and so on.

        A stage's ``metrics.json`` marks it as finished: a resumed run goes on with the stage that has none.
        """
        ckpt = ""
        for number, config in enumerate(stages, 1):
            folder = self.folder / f"stage_{number}"
            if (folder / METRICS).is_file():
                metrics = json.loads((folder / METRICS).read_text())
            else:
                config.ckpt = ckpt or None
                config.resume = str(folder) if (folder / "last.ckpt").is_file() else None
                part = Run(config, folder, self.whole)
                part.fit()
                metrics = part.metrics | part._training() | self.metrics  # of the stage before
                part._write(METRICS, json.dumps(metrics, indent=2) + "\n")
            ckpt = str(folder / "last.ckpt")
            self.metrics["started_from"] = of_training(metrics)
        if not self.checkpoint.is_file():
            initial_weights(self.module, ckpt, self.settings.entry)

    def _training(self) -> dict[str, Any]:
        """How the network was trained, but for the steps, which `fit` counts."""
        return {
            "seed": self.settings.seed,
            "command": self._command(),
            "overrides": self.settings.overrides,
            "time": round(self.timer.time_elapsed("train"), 1),
            "hardware": hardware(self.device),
            "precision": str(precision(self.settings.trainer)),
        }

    def test(self) -> None:
        """Measure on the test set, in float32 as `deqzoo.load` runs it, unless mode=test asks for another.

        A training in mixed precision has its weights in float32, so they are tested in it.
        """
        precise = self.settings.trainer.precision
        if self.settings.mode is Mode.fit:
            round_weights(self.module.trained_network)
            precise = "auto" if "mixed" in str(precise) else precise
        with quiet_lightning():
            trainer = self._trainer(False, self._progress(), "32-true" if precise == "auto" else precise)
            trainer.test(self.module, datamodule=self.data, verbose=False)
        test = _of_stage("test", trainer.callback_metrics)
        self.device = trainer.strategy.root_device
        self.metrics |= {
            "entry": self.settings.entry,
            "data": self.settings.data.name,
            "test": test | {"n": round(test["n"])},
            **self._training(),
            "parameters": sum(p.numel() for p in self.module.network.parameters()),
            "versions": versions(),
        }
        if self.settings.mode is Mode.test:
            self._write(METRICS, json.dumps(self.metrics, indent=2) + "\n")

    @rank_zero_only
    def check(self) -> None:
        """Measure what else the card is to show of this kind of model."""
        if self.kind.check is not None:
            with self._trained() as trained:
                self.metrics[self.kind.check.name] = self.kind.check.measure(trained)

    @rank_zero_only
    def export(self) -> None:
        """Write plots, the checkpoint folder, and last ``metrics.json``, which marks the run as finished."""
        if self.settings.mode is not Mode.fit:
            return
        self.check()
        with self._trained() as trained:
            self.kind.plots(trained, self.folder / "plots")
            inputs = self.kind.example(self.data.info, next(trained.test_batches()))
        recorded = {key: value for key, value in self.metrics.items() if key != "overrides"}
        export(self.module, self.folder / "export", recorded, inputs=inputs)
        self._write(METRICS, json.dumps(self.metrics, indent=2) + "\n")

    @rank_zero_only
    def report(self) -> None:
        """Tell what was reached, where it lies and what to type next."""
        report(self.metrics, self.folder, self.kind, trained=self.settings.mode is Mode.fit)

    @contextmanager
    def _trained(self) -> Iterator[Trained]:
        """The trained network, and all of the test set: with a trainer, the loaders give this process's share."""
        network = self.module.trained_network.eval().to(self.device)  # Lightning has moved it away
        history = read_history(self.folder / "metrics.csv")
        trainer, self.data.trainer = self.data.trainer, None
        try:
            find = partial(find_baseline, data=self.data)
            yield Trained(
                network,
                self.settings.model,
                self.data,
                self.device,
                history,
                find,
                within_limits(self.settings.trainer),
            )
        finally:
            self.data.trainer = trainer

    @rank_zero_only
    def _write(self, name: str, text: str) -> None:
        with whole_file(self.folder / name) as part:
            part.write_text(text)

    def _trainer(self, loggers: Any, callbacks: list[Callback], precision: str | int) -> Trainer:
        # A Timer among the callbacks makes Lightning ignore its own max_time: ours has it.
        chosen = to_plain(OmegaConf.structured(self.settings.trainer))
        chosen |= {"precision": precision, "max_time": None, "devices": devices(self.settings.trainer)}
        try:
            return Trainer(
                **chosen,
                logger=loggers,
                callbacks=callbacks,
                enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
                enable_model_summary=False,
                default_root_dir=self.folder,
            )
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:  # of a setting of trainer
            raise ConfigError(" ".join(str(error).split())) from error

    def _progress(self) -> list[Callback]:
        return [RunProgress(self.kind.metric)] if self.settings.trainer.enable_progress_bar else []

    def _loggers(self) -> list[LightningLogger]:
        loggers: list[LightningLogger] = [History(self.folder / "metrics.csv")]
        if self.settings.logger is Logger.wandb:
            from deqzoo.training.tracking import wandb_logger

            loggers.append(wandb_logger(self.folder, self.settings.entry, to_plain(self.config)))
        if self.settings.logger is Logger.tensorboard:
            from deqzoo.training.tracking import tensorboard_logger

            loggers.append(tensorboard_logger(self.folder))
        return loggers

    def _goes_on(self) -> str:
        if not self.checkpoint.is_file():
            return "No checkpoint had been written yet."
        return f"`python train.py resume={shlex.quote(str(self.whole))}` goes on."

    def _last_good(self) -> str:
        if not self.checkpoint.is_file():
            return "No checkpoint had been written yet."
        return f"The last good checkpoint stands: {self.checkpoint} (`resume={self.whole}` goes on from it)."

    def _command(self) -> str:
        own: tuple[str, ...] = ("model=", "hydra.", "data.root=", "resume=", "logger=", "mode=", "seed=")
        if self.settings.mode is Mode.test:
            own = (*own, "ckpt=")
        words = [word for word in self.settings.overrides if not word.startswith(own)]
        words = [f"model={self.settings.entry}", *words, f"seed={self.settings.seed}"]
        return shlex.join(["python", "train.py", *words])


def _check_that_data_fit(settings: RunConfig, kind: Kind, data: Any) -> None:
    if not isinstance(data.info, kind.info):
        raise ConfigError(
            f"data={settings.data.name} has {data.info.items}; model={settings.entry} (kind {settings.model.kind}) "
            f"needs {kind.info.items}. Leave data= out to take the recipe's own set."
        )


def _of_stage(stage: str, metrics: Any) -> dict[str, float]:
    prefix = f"{stage}/"
    return {
        name.removeprefix(prefix): float(f"{float(value):.6g}")
        for name, value in metrics.items()
        if name.startswith(prefix)
    }
