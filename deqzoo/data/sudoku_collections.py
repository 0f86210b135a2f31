"""Collections of Sudoku puzzles that people have found: those of 17 digits, and the hardest ones of a forum."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from deqzoo.data.files import Archive, CorruptDataError, FileSet, read_file
from deqzoo.data.sudoku_solver import Puzzles

_URL = "https://raw.githubusercontent.com/xiej2520/SudukoSolver/1214633a958254bfd67f6f23c1d2f3ca2fbfec38/data/"


class SudokuFiles(FileSet):
    """Files with a puzzle a line."""

    instead: ClassVar[str] = "Train without them, and do not test on them: data.collections=false."


COLLECTIONS = SudokuFiles(
    title="Sudoku puzzles of 17 digits, and a forum's hardest ones",
    source="https://github.com/xiej2520/SudukoSolver",
    licence="none stated; facts that were collected by G. Royle, and on the forum enjoysudoku",
    megabytes=8,
    folder="sudoku",
    files={"17_clue.txt": None, "forum_hardest_1905.txt": None},
    archives=(
        Archive(_URL + "puzzles2_17_clue", None, saved_as="17_clue.txt"),
        Archive(_URL + "puzzles5_forum_hardest_1905_11%2B", None, saved_as="forum_hardest_1905.txt"),
    ),
)


def read_puzzles(folder: Path, name: str) -> Puzzles:
    """The puzzles of a file: 81 characters a line, row after row; ``.`` or 0 for an empty cell; # begins a comment.

    Returns:
        (n, 9, 9).

    Raises:
        CorruptDataError: a line is something else.
    """
    puzzles = []
    for number, line in enumerate(read_file(folder, name, None).decode("ascii", "replace").splitlines(), 1):
        cells = line.partition("#")[0].strip().replace(".", "0")
        if not cells:
            continue
        if len(cells) != 81 or not cells.isdecimal():
            raise CorruptDataError(
                f"{folder / name}, line {number}: a puzzle has 81 characters, a digit or a dot for each cell; this is "
                f"{line[:90]!r}. Delete the file and run again, so that it is fetched anew."
            )
        puzzles.append(np.frombuffer(cells.encode(), np.uint8) - ord("0"))
    if not puzzles:
        raise CorruptDataError(f"{folder / name} has no puzzle. Delete it and run again, so that it is fetched anew.")
    return np.stack(puzzles).reshape(-1, 9, 9)
