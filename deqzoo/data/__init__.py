"""Data sets as LightningDataModules.

``kinds.py`` is the table of the kinds of data, ``config.py`` has their options. ``module.py`` is the base of all,
``loader.py`` makes batches. Images: ``registry.py`` has the sets, ``files.py`` finds and fetches their files,
``formats.py`` reads them, ``augment.py`` changes them, and ``images.py`` joins it all. Texts: ``text_sets.py``, and
``text.py``, which cuts them into windows. Labelled series: ``labelled_series.py``. Stays in
intensive care: ``stays.py`` (``physionet2012.py``). A graph: ``chains.py``. Orbits of
mechanical systems (``mechanics.py``): ``orbits.py``. Known densities: ``densities.py``, and
``density_points.py``, which draws from them. Tasks: ``sinusoids.py``,
``episodes.py`` (``omniglot.py``, ``cifar_fs.py``). A set with wrong labels: ``noisy_images.py``; a small one, beside
more to learn hyperparameters by: ``few_images.py``. Puzzles: ``sudoku.py``, of 4 x 4
cells, and ``sudoku9.py`` (``sudoku_generator.py``, ``sudoku_solver.py``, ``sudoku_symmetry.py``);
``mazes.py`` (``maze_generator.py``). Pictures to be represented: ``pictures.py``::

    data = ImageData("cifar10", batch_size=256, augment=Augment(crop=4, flip=True))
    lightning.Trainer().fit(module, datamodule=data)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.data.chains import ChainData
    from deqzoo.data.config import Augment, ImageDataConfig
    from deqzoo.data.densities import DENSITIES, Density
    from deqzoo.data.density_points import DensityData
    from deqzoo.data.episodes import EpisodeData
    from deqzoo.data.few_images import FewImageData
    from deqzoo.data.files import CorruptDataError, DataNotFoundError
    from deqzoo.data.images import ImageData
    from deqzoo.data.info import (
        DensityInfo,
        FewShotInfo,
        GraphInfo,
        ImageInfo,
        MazeInfo,
        PointInfo,
        RegressionTaskInfo,
        SudokuInfo,
        TextInfo,
    )
    from deqzoo.data.mazes import MazeData
    from deqzoo.data.noisy_images import NoisyImageData
    from deqzoo.data.points import PointData
    from deqzoo.data.registry import DATASETS
    from deqzoo.data.sinusoids import SinusoidData
    from deqzoo.data.sudoku import SudokuData
    from deqzoo.data.sudoku9 import Sudoku9Data
    from deqzoo.data.table import data_table
    from deqzoo.data.text import TextData
    from deqzoo.data.vocabulary import Vocabulary

_HOMES = {
    "Augment": "deqzoo.data.config",
    "ChainData": "deqzoo.data.chains",
    "CorruptDataError": "deqzoo.data.files",
    "DATASETS": "deqzoo.data.registry",
    "DENSITIES": "deqzoo.data.densities",
    "DataNotFoundError": "deqzoo.data.files",
    "Density": "deqzoo.data.densities",
    "DensityData": "deqzoo.data.density_points",
    "DensityInfo": "deqzoo.data.info",
    "EpisodeData": "deqzoo.data.episodes",
    "FewImageData": "deqzoo.data.few_images",
    "FewShotInfo": "deqzoo.data.info",
    "GraphInfo": "deqzoo.data.info",
    "ImageData": "deqzoo.data.images",
    "ImageDataConfig": "deqzoo.data.config",
    "ImageInfo": "deqzoo.data.info",
    "MazeData": "deqzoo.data.mazes",
    "MazeInfo": "deqzoo.data.info",
    "PointData": "deqzoo.data.points",
    "NoisyImageData": "deqzoo.data.noisy_images",
    "PointInfo": "deqzoo.data.info",
    "RegressionTaskInfo": "deqzoo.data.info",
    "SinusoidData": "deqzoo.data.sinusoids",
    "SudokuData": "deqzoo.data.sudoku",
    "Sudoku9Data": "deqzoo.data.sudoku9",
    "SudokuInfo": "deqzoo.data.info",
    "TextData": "deqzoo.data.text",
    "Vocabulary": "deqzoo.data.vocabulary",
    "TextInfo": "deqzoo.data.info",
    "data_table": "deqzoo.data.table",
}

__all__ = [
    "DATASETS",
    "DENSITIES",
    "Augment",
    "ChainData",
    "CorruptDataError",
    "DataNotFoundError",
    "Density",
    "DensityData",
    "DensityInfo",
    "EpisodeData",
    "FewImageData",
    "FewShotInfo",
    "GraphInfo",
    "ImageData",
    "ImageDataConfig",
    "ImageInfo",
    "MazeData",
    "MazeInfo",
    "NoisyImageData",
    "PointData",
    "PointInfo",
    "RegressionTaskInfo",
    "SinusoidData",
    "Sudoku9Data",
    "SudokuData",
    "SudokuInfo",
    "TextData",
    "TextInfo",
    "Vocabulary",
    "data_table",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: the configuration reads this package without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqzoo.data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
