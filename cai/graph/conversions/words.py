"""A text as a sequence of words, parted by any white space, that says what it expected where."""

from __future__ import annotations

import re
from typing import NoReturn

#: So many digits that a number of them is never a problem.
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


class Words:
    """The words of a text, taken one after the other; errors say where the word stands.

    Args:
        text: The text.
        what: What to call it in messages.
    """

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what, self.words, self.taken = text, what, text.split(), 0

    @property
    def num_left(self) -> int:
        """How many words are not yet taken."""
        return len(self.words) - self.taken

    def fail(self, message: str, index: int | None = None) -> NoReturn:
        """Raises ValueError with the place of a word, by default the last one taken."""
        at = self.taken - 1 if index is None else index
        for number, line in enumerate(self.text.splitlines(), start=1):
            if at < len(line.split()):
                raise ValueError(f"{self.what}, line {number}, word {at + 1}: {message}")
            at -= len(line.split())
        raise ValueError(f"{self.what}: {message}")

    def take(self, meaning: str) -> str:
        """Takes the next word; `meaning` is what is expected there."""
        self.need(1, meaning)
        self.taken += 1
        return self.words[self.taken - 1]

    def need(self, number: int, meaning: str) -> None:
        """Raises ValueError if fewer words than `number` are left."""
        if self.num_left < number:
            missing = f"the text ends after {len(self.words)} words, {number - self.num_left} too few"
            raise ValueError(f"{self.what}: {missing if self.words else 'the text is empty'}; expected {meaning}")

    def whole(self, meaning: str, low: int = 0, high: int | None = None) -> int:
        """Takes a whole number in low..high."""
        word = self.take(meaning)
        if not _WHOLE.fullmatch(word):
            self.fail(f"{meaning}: expected a whole number, got {word!r}")
        value = int(word)
        if value < low or (high is not None and value > high):
            allowed = f"of at least {low}" if high is None else f"in {low}..{high}"
            self.fail(f"{meaning}: expected a whole number {allowed}, got {value}")
        return value

    def counted(self, meaning: str, number_of: str, low: int = 0, high: int | None = None) -> list[int]:
        """Takes how many whole numbers follow, and these."""
        number = self.whole(number_of)
        self.need(number, f"{meaning} 0..{number - 1}")
        return [self.whole(f"{meaning} {index}", low, high) for index in range(number)]

    def finish(self) -> None:
        """Raises ValueError if words are left."""
        if self.num_left:
            self.fail(
                f"the model is complete, and {self.num_left} words follow: {self.words[self.taken]!r}", self.taken
            )
