"""The kinds of data: of each, where its settings and its LightningDataModule are. This file imports no torch.

A kind is a dataclass in ``config.py``, a file with its data module, and a line here. Others may be registered from
outside of this package, before a configuration is read:
``DATA_KINDS["mine"] = DataKind("my_package.config:MyConfig", "my_package.data:MyData")``.
"""

from pkgutil import resolve_name
from typing import Any, NamedTuple

from deqzoo.errors import ConfigError


class DataKind(NamedTuple):
    """Where a kind of data is found, as MODULE:NAME.

    Attributes:
        settings: the dataclass of its sets, in a module that imports no torch.
        module: the subclass of `deqzoo.data.module.TensorData`. Its file has a function ``rows()`` as well: of each set
            of the kind, its row of the table in ``data/README.md``.
    """

    settings: str
    module: str


def _in(settings: str, module: str, config: str = "config") -> DataKind:
    return DataKind(f"deqzoo.data.{config}:{settings}", f"deqzoo.data.{module}")


DATA_KINDS: dict[str, DataKind] = {
    "chains": _in("ChainDataConfig", "chains:ChainData"),
    "density": _in("DensityDataConfig", "density_points:DensityData"),
    "episodes": _in("EpisodeDataConfig", "episodes:EpisodeData"),
    "few_images": _in("FewImageDataConfig", "few_images:FewImageData"),
    "image_folder": _in("ImageFolderConfig", "image_folder:ImageFolderData"),
    "images": _in("ImageDataConfig", "images:ImageData"),
    "labelled_series": _in("LabelledSeriesDataConfig", "labelled_series:LabelledSeriesData"),
    "mazes": _in("MazeDataConfig", "mazes:MazeData", "puzzle_config"),
    "noisy_images": _in("NoisyImageDataConfig", "noisy_images:NoisyImageData"),
    "orbits": _in("OrbitDataConfig", "orbits:OrbitData"),
    "pictures": _in("PictureDataConfig", "pictures:PictureData", "picture_config"),
    "points": _in("PointDataConfig", "points:PointData"),
    "series": _in("SeriesDataConfig", "series:SeriesData"),
    "sinusoids": _in("SinusoidDataConfig", "sinusoids:SinusoidData"),
    "stays": _in("StayDataConfig", "stays:StayData", "stay_config"),
    "sudoku": _in("SudokuDataConfig", "sudoku:SudokuData", "puzzle_config"),
    "sudoku9": _in("Sudoku9DataConfig", "sudoku9:Sudoku9Data", "puzzle_config"),
    "text": _in("TextDataConfig", "text:TextData"),
}


def data_settings_of(kind: str) -> Any:
    """The dataclass of a kind's sets.

    >>> data_settings_of("points").__name__
    'PointDataConfig'
    """
    return resolve_name(DATA_KINDS[kind].settings)


def make_data(settings: Any, seed: int) -> Any:
    """The data module of typed ``data`` settings; what cannot be is a `ConfigError`."""
    options = {key: value for key, value in vars(settings).items() if key not in ("kind", "name")}
    try:
        return resolve_name(DATA_KINDS[settings.kind].module)(settings.name, seed=seed, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
