"""The kinds of data: which LightningDataModule each is. Their settings are in ``config.py`` beside this file."""

from importlib import import_module
from typing import Any

from deqzoo.errors import ConfigError

DATA_MODULES: dict[str, str] = {  # MODULE:CLASS of each kind
    "chains": "deqzoo.data.chains:ChainData",
    "density": "deqzoo.data.density_points:DensityData",
    "episodes": "deqzoo.data.episodes:EpisodeData",
    "images": "deqzoo.data.images:ImageData",
    "noisy_images": "deqzoo.data.noisy_images:NoisyImageData",
    "points": "deqzoo.data.points:PointData",
    "series": "deqzoo.data.series:SeriesData",
    "sinusoids": "deqzoo.data.sinusoids:SinusoidData",
    "text": "deqzoo.data.text:TextData",
}


def make_data(settings: Any, seed: int) -> Any:
    """The data module of typed ``data`` settings; what cannot be is a `ConfigError`."""
    module, _, name = DATA_MODULES[settings.kind].partition(":")
    options = {key: value for key, value in vars(settings).items() if key not in ("kind", "name")}
    try:
        return getattr(import_module(module), name)(settings.name, seed=seed, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
