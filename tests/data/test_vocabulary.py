"""Text to numbers and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.data import Vocabulary
from deqzoo.data.vocabulary import UNKNOWN

PLAY = "to be , or not to be\nthat is\n"


@given(st.text(max_size=40))
def test_characters_go_there_and_back(text):
    vocabulary = Vocabulary.of(text, "characters")
    numbers = vocabulary.encode(text)
    assert len(vocabulary) == 1 + len(set(text))
    assert numbers.shape == (len(text),)
    assert (numbers > 0).all()
    assert vocabulary.decode(numbers.tolist()) == text


def test_words_go_there_and_back_and_lines_end():
    vocabulary = Vocabulary.of(PLAY, "words")
    numbers = vocabulary.encode(PLAY)
    assert vocabulary.tokens == (UNKNOWN, "\n", ",", "be", "is", "not", "or", "that", "to")
    assert len(numbers) == 7 + 1 + 2 + 1
    assert vocabulary.decode(numbers.tolist()) == PLAY
    assert sum(vocabulary.characters[number] for number in numbers) == len(PLAY)


def test_rare_and_unknown_tokens_are_one():
    vocabulary = Vocabulary.of(PLAY, "words", min_count=2)
    assert vocabulary.tokens == (UNKNOWN, "\n", "be", "to")
    assert vocabulary.encode("to <unk> or").tolist() == [3, 0, 0]
    assert vocabulary.unknown("to or not or to") == ["or", "not"]
    assert Vocabulary.of("<unk> a <unk>", "words").tokens == (UNKNOWN, "a")


@pytest.mark.parametrize(
    ("tokens", "unit", "told"),
    [
        (("a", "b"), "characters", "must begin with '<unk>'"),
        ((UNKNOWN, "a", "a"), "characters", "be distinct"),
        ((UNKNOWN, "a"), "syllables", "unit='syllables': valid are characters, words"),
    ],
)
def test_what_is_no_vocabulary(tokens, unit, told):
    with pytest.raises(ValueError, match=told):
        Vocabulary(tokens, unit)
