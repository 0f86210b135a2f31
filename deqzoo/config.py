"""The configuration: typed dataclasses, and the registration of the zoo's YAML files with Hydra.

Every file in ``models/`` is a recipe: the fields of its kind's dataclass (``kind:`` names it), and beside
them ``data`` (the set it trains on), ``trainer`` (its defaults) and ``threads``. Every file in ``data/`` is a data set.
`register` merges each onto its dataclass, so that a typo in a file or on the command line is an error that
lists what is valid. Hydra composes; it instantiates nothing. The kinds' dataclasses are in the ``config.py`` of each
family in ``deqzoo/models`` and in ``deqzoo/data/config.py``. This file imports no torch.
"""

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deqzoo.data.kinds import DATA_KINDS, data_settings_of
from deqzoo.errors import ConfigError
from deqzoo.models.registry import KINDS, settings_of
from deqzoo.paths import names, zoo_path

DEFAULT_ENTRY = "deq_digits"
# Settings of a model that have other names now; the old ones go with the next minor release.
RENAMED = {
    "gradient": "adjoint",
    "gradient_options": "adjoint_options",
    "least_shown": "min_observed_fraction",
    "mirror": "flip_equivariant",
    "shares": "observed_fractions",
}


class Mode(Enum):
    """What a run does."""

    fit = "fit"
    test = "test"


class Logger(Enum):
    """Where a run's curves go: ``metrics.csv`` is always written, beside it what is chosen."""

    csv = "csv"
    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass
class TrainerConfig:
    """Lightning's own Trainer arguments, by Lightning's names."""

    max_epochs: int | None = None
    max_steps: int = -1
    max_time: Any = None  # DAYS:HOURS:MINUTES:SECONDS of training, those before a resume included
    accelerator: str = "auto"
    devices: Any = "auto"  # auto: one; each further one is a process with a batch of its own
    strategy: str = "auto"
    num_nodes: int = 1
    precision: Any = "auto"  # auto: bf16-mixed where the device has bf16 matrix units, else 32-true
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1
    check_val_every_n_epoch: int | None = 1
    val_check_interval: Any = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    overfit_batches: Any = 0.0
    log_every_n_steps: int = 10
    num_sanity_val_steps: int = 0
    deterministic: Any = None
    benchmark: bool | None = None
    sync_batchnorm: bool = False
    detect_anomaly: bool = False
    profiler: str | None = None
    enable_progress_bar: bool = True


@dataclass
class RunConfig:
    """One run of ``train.py``: an entry's recipe, a data set, and how to run them."""

    entry: str = DEFAULT_ENTRY  # set by model=; the run's folder is outputs/ENTRY/DATE_TIME
    mode: Mode = Mode.fit
    seed: int = 0
    logger: Logger = Logger.csv
    ckpt: str | None = None  # pretrained, an entry, or a path: the weights to test, or to start training from
    resume: str | None = None  # last, or a run's folder: go on with a run that was cut off
    threads: int | None = None  # of the CPU; null: as many as torch chooses (a small network is fastest on one)
    tf32: bool = False  # of GPUs: products of float32 rounded to ten bits, which few tolerances below 1e-3 allow
    save_every_n_steps: int = 100  # last.ckpt is written this often, and after every epoch
    stages: list[str] = field(default_factory=list)  # what is trained first, in turn: words of a command line each
    overrides: list[str] = field(default_factory=list)  # the words of the command line, for the record
    model: Any = None
    data: Any = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


_stored: dict[tuple[str, str], int] = {}  # group and name of what Hydra has, and when its file was written


def register(words: Iterable[str] | None = None) -> None:
    """Put the zoo's data sets and recipes into Hydra's ConfigStore (groups ``data`` and ``model``).

    To read all recipes takes seconds. With the ``words`` of a command line, only those that its ``model=`` chooses are
    read; of the others Hydra is told the names.
    """
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True, use_cache=True)
    store = ConfigStore.instance()
    store.store(name="run", node=_root())
    for name in names("data"):
        _store("data", name, _data_set)
    chosen = None if words is None else _chosen(words)
    for name in names("models"):
        if chosen is None or name in chosen:
            _store("model", name, _recipe)
        elif ("model", name) not in _stored:
            store.store(group="model", name=name, node={})


def _store(group: Literal["model", "data"], name: str, read: Callable[[str], DictConfig]) -> None:
    """Hand a file to Hydra, unless this process did so since it was written."""
    folder = zoo_path("models" if group == "model" else "data")
    package = "_global_" if group == "model" else None
    written = (folder / f"{name}.yaml").stat().st_mtime_ns
    if _stored.get((group, name)) != written:
        ConfigStore.instance().store(group=group, name=name, node=read(name), package=package)
        _stored[group, name] = written


def _chosen(words: Iterable[str]) -> set[str] | None:
    """The entries that a command line names, `model=a,b` in a sweep; None where it takes Hydra to tell."""
    values = [word.removeprefix("model=") for word in words if word.startswith("model=")]
    if not all(re.fullmatch(r"[\w,]+", value) for value in values):
        return None
    return {name for value in values for name in value.split(",")} or {DEFAULT_ENTRY}


def model_config(settings: Mapping[str, Any], where: str) -> DictConfig:
    """Typed settings of a model, of the kind that ``settings["kind"]`` names.

    Raises `ConfigError`, which names ``where``, for an unknown kind, key or value.
    """
    settings = {_current(str(name)): value for name, value in settings.items()}
    config = _typed(settings_of(_kind(settings, KINDS, where)), settings, where)
    for name in config:
        if str(name).endswith("_options"):
            OmegaConf.set_struct(config[name], False)  # open here: the solver's own dataclass checks them
    return config


def current_words(words: Iterable[str]) -> list[str]:
    """The words of a command line, settings that have been renamed under their names of today, with a warning.

    >>> current_words(["model=deq_digits", "model.lr=.1"])
    ['model=deq_digits', 'model.lr=.1']
    """
    return [re.sub(r"^([~+]*model\.)(\w+)", lambda found: found[1] + _current(found[2]), word) for word in words]


def _current(name: str) -> str:
    """A model's setting by its name of today; a warning where that is another."""
    if name not in RENAMED:
        return name
    # Python shows a FutureWarning to everyone, a DeprecationWarning to developers alone.
    message = f"model.{name} is called model.{RENAMED[name]} now; the old name goes with the next minor release"
    warnings.warn(message, FutureWarning, stacklevel=2)
    return RENAMED[name]


def data_config(settings: Mapping[str, Any], where: str) -> DictConfig:
    """Typed settings of a data set; as `model_config`."""
    return _typed(data_settings_of(_kind(settings, DATA_KINDS, where)), settings, where)


def load_run(folder: Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The configuration of an earlier run (its ``config.yaml``), the command line's ``overrides`` on top."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a run's folder: it has no config.yaml.")
    saved = _read(path)
    base = OmegaConf.structured(RunConfig)
    base.model = model_config(saved.pop("model"), str(path))
    base.data = data_config(saved.pop("data"), str(path))
    changes = [word for word in overrides if not word.startswith(("model=", "data=", "hydra."))]
    if wrong := [word for word in changes if word.startswith(("~", "+"))]:
        raise ConfigError(f"{wrong[0]}: a resumed run's settings can be changed, but not added or left out.")
    try:
        config = OmegaConf.merge(base, saved, OmegaConf.from_dotlist(changes))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(config, DictConfig)
    return config


def explain(error: BaseException) -> str:
    """A message for people from an error of Hydra or OmegaConf: what is wrong, and what is valid."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for inner in chain:
        if isinstance(inner, ConfigError):
            return str(inner)
    for inner in chain:
        if isinstance(inner, OmegaConfBaseException) and inner.full_key is not None:
            return _explain_key(inner)
    text = " ".join(str(error).partition("Config search path")[0].removeprefix("In 'run': ").split())
    if found := re.match(r"Could not find '(model|data)/(\S*)'", text):
        return _unknown_name(found[1], found[2])
    return text  # bad grammar


def _unknown_name(group: str, name: str) -> str:
    what, valid = {"model": ("entry", names("models")), "data": ("data set", names("data"))}[group]
    return f"there is no {what} {name!r}; valid are {_listed(valid)}.{nearest(name, valid)}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A question after the valid name that is like this one, if there is one.

    >>> nearest("deq_digit", ["deq_cifar", "deq_digits"])
    ' Did you mean deq_digits?'
    """
    found = get_close_matches(name, list(valid), n=1, cutoff=0.7)
    return f" Did you mean {found[0]}?" if found else ""


def _explain_key(error: OmegaConfBaseException) -> str:
    parent = error.parent_node
    if isinstance(parent, DictConfig) and error.key not in parent:
        prefix = str(error.full_key).rpartition(".")[0]
        valid = [f"{prefix}.{name!s}".lstrip(".") for name in parent if name != "hydra"]
        full = str(error.full_key)
        told = f"there is no setting {full!r}; valid are {_listed(valid)}.{nearest(full, valid)}"
        if full.startswith("data.") and not any(full in word for word in sys.argv):
            told += f" The recipe sets {full} for its own data set: choose another of that kind."
        return told
    return f"{error.full_key}: {str(error).splitlines()[0].rstrip('.')}."


def to_plain(config: Any) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings of a configuration, enums by name (what goes into JSON)."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return json.loads(json.dumps(container))


def _root() -> DictConfig:
    root = OmegaConf.structured(RunConfig)
    OmegaConf.set_struct(root, False)
    root.defaults = ["_self_", {"data": "digits"}, {"model": DEFAULT_ENTRY}]
    root.defaults += [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    root.hydra = {
        "run": {"dir": "${run_folder:${entry},${resume}}"},
        "sweep": {"dir": "outputs/sweeps/${now:%Y-%m-%d_%H-%M-%S}", "subdir": "${hydra.job.num}"},
        "output_subdir": None,
    }
    assert isinstance(root, DictConfig)
    return root


def _data_set(name: str) -> DictConfig:
    """The node of ``data/NAME.yaml``."""
    return data_config(_read(zoo_path("data") / f"{name}.yaml"), f"data/{name}.yaml")


def _recipe(name: str) -> DictConfig:
    """The node of ``models/NAME.yaml``. It lands at the root: a recipe sets more than ``model``."""
    where = f"models/{name}.yaml"
    settings = _read(zoo_path("models") / f"{name}.yaml")
    data = dict(settings.pop("data", {}))
    data_name = data.pop("name", None)
    if data_name not in names("data"):
        raise ConfigError(f"{where}: data.name is {data_name!r}; valid are {_listed(names('data'))}.")
    _typed(_data_set(data_name), data, f"{where}: data")
    trainer = settings.pop("trainer", {})
    _typed(TrainerConfig, trainer, f"{where}: trainer")
    return OmegaConf.create(
        {
            "defaults": [{"override /data": data_name}, "_self_"],
            "entry": name,
            "threads": settings.pop("threads", None),
            "stages": settings.pop("stages", []),
            "model": model_config(settings, where),
            "data": data,
            "trainer": trainer,
        }
    )


def _kind(settings: Mapping[str, Any], kinds: Iterable[str], where: str) -> str:
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{where}: kind is {kind!r}; valid are {_listed(kinds)}.")
    return kind


def _typed(base: Any, settings: Mapping[str, Any], where: str) -> DictConfig:
    """``settings`` merged onto ``base``, a dataclass or an instance of one."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(base), settings)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {explain(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _run_folder(entry: str, resume: str | None) -> str:
    """``outputs/ENTRY/DATE_TIME``, or the folder of the run to be resumed."""
    if resume is None:
        return f"outputs/{entry}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if resume != "last":
        path = Path(resume)
        return str(path.parent if path.is_file() else path)
    runs = Path("outputs", entry)
    begun = {path.relative_to(runs).parts[0] for path in runs.glob("**/last.ckpt")}  # of a run or of its stages
    cut_off = [runs / name for name in begun if not (runs / name / "metrics.json").exists()]
    if not cut_off:
        raise ConfigError(f"resume=last: no unfinished run with a last.ckpt lies in {runs}/; start one anew.")
    return str(max(cut_off, key=lambda folder: folder.name))


def _read(path: Path) -> dict[str, Any]:
    content = OmegaConf.load(path)
    if isinstance(content, ListConfig):
        raise ConfigError(f"{path} holds a list; it should hold settings, `key: value`.")
    container = OmegaConf.to_container(content)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
