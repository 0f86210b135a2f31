"""PhysioNet 2012: the first 48 hours of 8,000 stays in intensive care, one text file each, and who died in hospital."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqzoo.data.files import Archive, CorruptDataError, FileSet, data_root, fetch, read_file
from deqzoo.data.series_set import Floats

DESCRIPTORS = ("Age", "Gender", "Height", "ICUType")  # told once, on admission; -1: unknown
MEASURED = (
    *("Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS"),
    *("Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP", "MechVent", "Mg", "Na", "NIDiasABP", "NIMAP"),
    *("NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT"),
    *("Urine", "WBC", "Weight"),
)
CHANNELS = (*DESCRIPTORS, *MEASURED)
HOURS = 48
COUNTS = {"a": (4000, 554), "b": (4000, 568)}  # stays and deaths, as published

_CHANNEL = {name: number for number, name in enumerate(CHANNELS)}
_MAY_BE_UNKNOWN = {*DESCRIPTORS, "Weight"}
_HEAD, _OUTCOMES_HEAD = "Time,Parameter,Value", "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
_URL = "https://physionet.org/files/challenge-2012/1.0.0/"
_AGAIN = "Delete it and run again, so that it is fetched anew."


class StayFiles(FileSet):
    """An archive of stays, and their outcomes."""

    instead: ClassVar[str] = (
        "Train on series that a package ships: `pip install 'deqzoo[series]'`, model=latent_ode_vowels."
    )


def stay_files(part: str) -> StayFiles:
    """Where set ``a`` or ``b`` is published, and where it lies under the data root."""
    archive, outcomes = f"set-{part}.tar.gz", f"Outcomes-{part}.txt"
    return StayFiles(
        title=f"PhysioNet 2012, set {part}",
        source="https://physionet.org/content/challenge-2012/1.0.0/",
        licence="ODC-BY 1.0 (cite Silva et al., 2012, and Goldberger et al., 2000)",
        megabytes=8,
        folder="physionet2012",
        files={archive: None, outcomes: None},  # `read_stays` checks what they hold
        archives=(Archive(_URL + archive, None, saved_as=archive), Archive(_URL + outcomes, None, saved_as=outcomes)),
    )


class Stays(NamedTuple):
    """N stays; what was measured in them is E events, stay by stay and in the order of their times.

    Attributes:
        record: (N,) int64, their numbers.
        died: (N,) int64, 1 where the patient died in hospital.
        stay: (E,) int64, whose event it is, in [0, N).
        minute: (E,) int64, since admission.
        channel: (E,) int64, of `CHANNELS`.
        value: (E,), in the files' units.
    """

    record: NDArray[np.int64]
    died: NDArray[np.int64]
    stay: NDArray[np.int64]
    minute: NDArray[np.int64]
    channel: NDArray[np.int64]
    value: Floats


def find_stays(root: str | None, part: str, *, download: bool = True) -> Path:
    """The folder with a set's files, which are downloaded when they are missing; an unpacked archive serves as well.

    Raises:
        DataNotFoundError: a file is missing and cannot be downloaded; the message names the ways on.
    """
    spec = stay_files(part)
    if (data_root(root) / spec.folder / f"set-{part}").is_dir():
        spec = replace(spec, files={f"Outcomes-{part}.txt": None}, archives=spec.archives[1:])
    return fetch(spec, root, download=download)


def read_stays(folder: Path, part: str, *, verify: bool = True) -> Stays:
    """All stays of set ``a`` or ``b``, by their numbers.

    Descriptors of -1 are unknown: they make no event. So does what is told of the stay's number.

    Args:
        folder: what `find_stays` gave.
        verify: whether the set must be complete: 4,000 stays, and as many deaths as were published.

    Raises:
        CorruptDataError: a file is not of this form; the message names file, line and mend.
    """
    outcomes = folder / f"Outcomes-{part}.txt"
    died = _read_outcomes(outcomes, read_file(folder, outcomes.name, None))
    texts = dict(_texts(folder, part))
    if set(texts) != set(died):
        alone = min(set(texts) ^ set(died))
        where = outcomes if alone in texts else folder / f"set-{part}"
        raise CorruptDataError(f"{where} lacks the stay {alone}: stays and outcomes must be of one set. {_AGAIN}")
    found = len(died), sum(died.values())
    if verify and found != COUNTS[part]:
        raise CorruptDataError(
            f"{folder}: set {part} should have {COUNTS[part][0]:,} stays with {COUNTS[part][1]} deaths; found are "
            f"{found[0]:,} with {found[1]}. {_AGAIN} (A part of it, or stays of your own: data.verify=false.)"
        )
    record = sorted(died)
    events = [_read_stay(folder / f"set-{part}" / f"{number}.txt", texts[number]) for number in record]
    counts = [len(stay) for stay in events]
    columns = np.array([event for stay in events for event in stay], dtype=np.float64).reshape(-1, 3)
    minute, channel = columns[:, :2].astype(np.int64).T
    return Stays(
        record=np.array(record),
        died=np.array([died[number] for number in record]),
        stay=np.repeat(np.arange(len(record)), counts),
        minute=minute,
        channel=channel,
        value=columns[:, 2],
    )


def _texts(folder: Path, part: str) -> Iterator[tuple[int, str]]:
    """Number and content of each stay, of the unpacked folder, else of the archive."""
    unpacked, archive = folder / f"set-{part}", folder / f"set-{part}.tar.gz"
    if unpacked.is_dir():
        for path in unpacked.glob("*.txt"):
            yield _number(path), path.read_text("ascii", "replace")
        return
    try:
        with tarfile.open(archive) as file:
            for member in file:
                if member.name.endswith(".txt") and (stream := file.extractfile(member)) is not None:
                    yield _number(Path(member.name)), stream.read().decode("ascii", "replace")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CorruptDataError(f"{archive} is corrupt: {error}. {_AGAIN}") from error


def _number(path: Path) -> int:
    if not path.stem.isdecimal():
        raise CorruptDataError(f"{path}: a stay's file is named by its number, as 132539.txt")
    return int(path.stem)


def _read_outcomes(path: Path, content: bytes) -> dict[int, int]:
    """Whether the patient died in hospital, of each stay."""
    head, *lines = content.decode("ascii", "replace").split() or [""]
    if head != _OUTCOMES_HEAD:
        raise CorruptDataError(f"{path} begins with {head!r}, not with {_OUTCOMES_HEAD!r}. {_AGAIN}")
    died = {}
    for number, line in enumerate(lines, 2):
        cells = line.split(",")
        if len(cells) != 6 or not cells[0].isdecimal() or cells[-1] not in ("0", "1"):
            raise CorruptDataError(
                f"{path}, line {number}: six columns, the last of them 0 or 1; got {line!r}. {_AGAIN}"
            )
        died[int(cells[0])] = int(cells[-1])
    return died


def _read_stay(path: Path, text: str) -> list[tuple[int, int, float]]:
    """Minute, channel and value of all that is known of a stay."""
    head, *lines = text.split() or [""]
    if head != _HEAD:
        raise CorruptDataError(f"{path} begins with {head!r}, not with {_HEAD!r}. {_AGAIN}")
    events, before = [], 0
    for number, line in enumerate(lines, 2):
        try:
            time, name, figure = line.split(",")
            minute, value = int(time[:-3]) * 60 + int(time[-2:]), float(figure)
        except ValueError:
            raise _fault(path, number, line, "a line is HH:MM,Parameter,Value") from None
        if not (before <= minute <= HOURS * 60 and isfinite(value)):
            raise _fault(path, number, line, f"times must not go back, nor beyond {HOURS}:00, and values be finite")
        before = minute
        if name == "RecordID" or (value == -1 and name in _MAY_BE_UNKNOWN):
            continue
        if name not in _CHANNEL:
            raise _fault(path, number, line, f"there is no parameter {name!r}; valid are {', '.join(CHANNELS)}")
        events.append((minute, _CHANNEL[name], value))
    if not events:
        raise CorruptDataError(f"{path}: nothing is known of this stay; leave it out, here and in the outcomes")
    return events


def _fault(path: Path, number: int, line: str, why: str) -> CorruptDataError:
    return CorruptDataError(f"{path}, line {number} ({line!r}): {why}. {_AGAIN}")
