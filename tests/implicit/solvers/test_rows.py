"""Rows of a batch, chosen and combined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit.rows import select


@settings(max_examples=40)
@given(systems=st.integers(0, 4), n=st.integers(0, 9), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_select_is_where_bit_by_bit(systems, n, dtype):
    new, old = torch.randn(systems, n, dtype=dtype), torch.full((systems, n), torch.nan, dtype=dtype)
    mask = torch.rand(systems) < 0.5
    chosen = select(mask, new, old)
    assert chosen.dtype == dtype
    torch.testing.assert_close(chosen, torch.where(mask.unsqueeze(1), new, old), rtol=0, atol=0, equal_nan=True)


def test_select_of_rows_that_are_not_contiguous():
    new, old, mask = torch.randn(4, 3).T, torch.zeros(3, 4), torch.tensor([True, False, True])
    torch.testing.assert_close(select(mask, new, old), torch.where(mask[:, None], new, old))


def test_select_of_rows_that_begin_anywhere_in_their_storage():
    new, old, mask = torch.randn(13)[1:].view(3, 4), torch.zeros(3, 4), torch.tensor([True, False, True])
    torch.testing.assert_close(select(mask, new, old), torch.where(mask[:, None], new, old))


@pytest.mark.parametrize("taped", [0, 1])
def test_select_keeps_the_tape(taped):
    rows = [torch.randn(2, 4), torch.randn(2, 4)]
    rows[taped].requires_grad_()
    select(torch.tensor([True, False]), *rows).sum().backward()
    assert rows[taped].grad.sum(dim=1).tolist() == ([4.0, 0.0], [0.0, 4.0])[taped]
