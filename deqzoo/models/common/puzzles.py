"""What networks that take puzzles ask of them."""

import torch
from torch import Tensor

from deqzoo.nn.tensors import check_tensor

SUDOKU = "digits from 1, and 0 for an empty cell"
MAZE = "0 wall, 1 free, 2 start, 3 goal"


def checked_cells(puzzles: Tensor, most: int, what: str, *, side: int | None = None, look: bool = True) -> Tensor:
    """Puzzles (B, height, width) of whole numbers from 0 to ``most``, as int64.

    Args:
        what: the numbers, in words.
        side: height and width; None: any.
        look: at each number, for which a GPU has to be waited for; a graph that is being traced is not looked at.

    Raises:
        ValueError: they are something else.

    >>> checked_cells(torch.tensor([[[0, 5]]]), 3, MAZE)
    Traceback (most recent call last):
        ...
    ValueError: the cells of puzzles are 0 wall, 1 free, 2 start, 3 goal; got 0 to 5
    """
    check_tensor("puzzles", puzzles)
    if puzzles.is_floating_point() or puzzles.is_complex() or puzzles.dtype == torch.bool:
        raise ValueError(f"the cells of puzzles are integers, {what}; got {puzzles.dtype}")
    if puzzles.dim() < 3 or (side is not None and puzzles.shape[-2:] != (side, side)):
        shape = "(B, height, width)" if side is None else f"(B, {side}, {side})"
        raise ValueError(f"puzzles are {shape}; got {tuple(puzzles.shape)}")
    if look and puzzles.numel() and not torch.compiler.is_compiling():
        least, largest = torch.stack(puzzles.aminmax()).tolist()
        if least < 0 or largest > most:
            raise ValueError(f"the cells of puzzles are {what}; got {least} to {largest}")
    return puzzles.long()
