"""Japanese vowels: speech of nine speakers, with most of its values dropped at random."""

import numpy as np

from deqzoo.data.series_set import MissingPackageError, SeriesSet

KEPT, FRAMES, WINDOW, VALIDATION = 0.2, 29, 14, 45
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
    try:
        from sktime.datasets import load_japanese_vowels
    except ImportError as error:
        raise MissingPackageError(
            "data=japanese_vowels lies inside the package sktime, which is not installed: "
            "`pip install sktime` or `pip install 'deqzoo[series]'`."
        ) from error
    series = []
    for part in ("train", "test"):
        utterances, _ = load_japanese_vowels(part, return_type="df-list")
        series += [utterance.to_numpy() for utterance in utterances]
    truth = np.full((len(series), FRAMES, series[0].shape[1]), np.nan)
    for row, utterance in zip(truth, series, strict=True):
        row[: len(utterance)] = utterance
    kept = np.random.default_rng(_SEED).random(truth.shape) < KEPT
    train = np.arange(270)
    validation = train % 30 < VALIDATION // 9  # the utterances stand speaker by speaker, 30 each
    return SeriesSet(
        times=np.arange(FRAMES) / 10,
        values=np.where(kept, truth, np.nan),
        truth=truth,
        window=WINDOW,
        parts={"train": train[~validation], "val": train[validation], "test": np.arange(270, len(truth))},
        exact=False,
    )
