"""Japanese vowels: speech of nine speakers, with most of its values dropped at random."""

import numpy as np
from numpy.typing import NDArray

from deqzoo.data.series_set import Floats, MissingPackageError, SeriesSet

KEPT, FRAMES, WINDOW, TRAIN, VALIDATION = 0.2, 29, 14, 270, 45
_SEED = 1999


def read_vowels() -> SeriesSet:
    """640 utterances of two vowels, 7 to 29 frames of 12 LPC cepstrum coefficients; 20 % of the values are kept.

    Which values are kept is drawn once, each by itself, so that most frames show some coefficients and lack others; the
    others are measured as well, but are never shown, in training or test: they are the truth of the test. Frames 14 and
    later are beyond the window. 270 utterances are published for training, of which 45 (5 per speaker) validate, and
    370 for testing. Time is counted in tens of frames.

    Source: Kudo, Toyama, Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions", 1999; the UCI
    archive's set (CC BY 4.0), which ships inside sktime.

    Raises:
        MissingPackageError: sktime is not installed.
    """
    truth, _ = read_utterances("japanese_vowels")
    kept = np.random.default_rng(_SEED).random(truth.shape) < KEPT
    return SeriesSet(
        times=np.arange(FRAMES) / 10,
        values=np.where(kept, truth, np.nan),
        truth=truth,
        window=WINDOW,
        parts=vowel_parts(len(truth)),
        exact=False,
    )


def read_utterances(name: str) -> tuple[Floats, NDArray[np.int64]]:
    """All utterances, the training set first: frames (640, 29, 12), NaN after their ends, and speakers (640,).

    Args:
        name: of the data set that is made of them, for the error.

    Raises:
        MissingPackageError: sktime is not installed.
    """
    try:
        from sktime.datasets import load_japanese_vowels
    except ImportError as error:
        raise MissingPackageError(
            f"data={name} lies inside the package sktime, which is not installed: "
            "`pip install sktime` or `pip install 'deqzoo[series]'`."
        ) from error
    series, speakers = [], []
    for part in ("train", "test"):
        utterances, labels = load_japanese_vowels(part, return_type="df-list")
        series += [utterance.to_numpy() for utterance in utterances]
        speakers += [int(label) - 1 for label in labels]
    frames = np.full((len(series), FRAMES, series[0].shape[1]), np.nan)
    for row, utterance in zip(frames, series, strict=True):
        row[: len(utterance)] = utterance
    return frames, np.array(speakers)


def vowel_parts(count: int) -> dict[str, NDArray[np.int64]]:
    """Which utterances train, validate and test: of the 270 published for training 45 validate, 5 of each speaker."""
    train = np.arange(TRAIN)
    validation = train % 30 < VALIDATION // 9  # the utterances stand speaker by speaker, 30 each
    return {"train": train[~validation], "val": train[validation], "test": np.arange(TRAIN, count)}
