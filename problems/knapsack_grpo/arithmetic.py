"""Sums, differences and products with their working: prompts, right answers, and who is right.

A prompt is `"  385+047="`, to one width by spaces on the left, so that `=` is always at the same place. The
working is a number of two digits for each column, from the last, and then the answer:

    385+047=   5+7 = 12, 8+4+1 = 13, 3+0+1 = 4    ->  "121304>0432."
    385-047=   10+5-7 = 8, 10+8-4-1 = 13, ...     ->  "081313>0338."   (ten more in each column: below 10 borrows)
    385*7=     5*7 = 35, 8*7+3 = 59, 3*7+5 = 26   ->  "355926>2695."

How hard a prompt is depends on its number of digits: each column is a chance to err. Only the answer counts
(`is_right`): the number after the last `>`, before the first `.`, whatever stands before it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALPHABET = " 0123456789+-*=>."
END = ALPHABET.index(".")
ZERO = ALPHABET.index("0")  # the other digits follow it
OPERATIONS = "+-*"
_CHARACTERS = np.frombuffer(ALPHABET.encode(), np.uint8)
_TOKENS = np.full(128, -1)
_TOKENS[_CHARACTERS] = np.arange(len(ALPHABET))
_ANSWER = re.compile(r"[^.]*>(\d+)\.")


@dataclass(frozen=True, slots=True)
class Exercise:
    """One prompt: `a` of `digits` digits, an operation, and `b` of as many (of one, for a product)."""

    a: int
    operation: str
    b: int
    digits: int

    @property
    def prompt(self) -> str:
        """What the model reads, up to and including `=`."""
        width = 1 if self.operation == "*" else self.digits
        return f"{self.a:0{self.digits}d}{self.operation}{self.b:0{width}d}="

    @property
    def result(self) -> int:
        """The right answer."""
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.operation]

    @property
    def response(self) -> str:
        """The working, the answer and the end, of `3 digits + 3` characters."""
        columns = []
        carry = 0
        for i in range(self.digits):
            x = self.a // 10**i % 10
            y = self.b if self.operation == "*" else self.b // 10**i % 10
            if self.operation == "-":
                column = 10 + x - y - carry
                carry = int(column < 10)
            else:
                column = (x * y if self.operation == "*" else x + y) + carry
                carry = column // 10
            columns.append(f"{column:02d}")
        return f"{''.join(columns)}>{self.result:0{self.digits + 1}d}."

    @property
    def limit(self) -> int:
        """The most tokens of a response: what the right one takes. A longer one is cut, and wrong."""
        return 3 * self.digits + 3

    @property
    def is_held_out(self) -> bool:
        """Whether it is for evaluation only: an eighth of all exercises, by a hash of the prompt."""
        return hashlib.blake2b(self.prompt.encode(), digest_size=1).digest()[0] % 8 == 0


def is_right(exercise: Exercise, response: str) -> bool:
    """Whether a response, up to its first `.`, ends in the right number; leading zeros do not matter."""
    found = _ANSWER.match(response)
    return found is not None and int(found[1]) == exercise.result


def draw(rng: np.random.Generator, operation: str, digits: int, *, held_out: bool) -> Exercise:
    """Return a random exercise of one kind, of those that are held out or of the others."""
    while True:
        a = int(rng.integers(10 ** (digits - 1), 10**digits))
        b = int(rng.integers(10) if operation == "*" else rng.integers(a + 1 if operation == "-" else 10**digits))
        found = Exercise(a, operation, b, digits)
        if found.is_held_out == held_out:
            return found


def kinds(max_digits: int) -> list[tuple[str, int]]:
    """All operations at all numbers of digits, from the easiest."""
    return [(operation, digits) for digits, operation in itertools.product(range(1, max_digits + 1), OPERATIONS)]


def data_set(n: int, max_digits: int, seed: int, *, held_out: bool) -> list[Exercise]:
    """Return `n` exercises, as many of each kind as of any other, up to one."""
    rng = np.random.default_rng([seed, held_out])
    of_kind = itertools.cycle(kinds(max_digits))
    return [draw(rng, *next(of_kind), held_out=held_out) for _ in range(n)]


def prompt_width(max_digits: int) -> int:
    """The characters of the longest prompt."""
    return 2 * max_digits + 2


def encode(texts: Sequence[str], width: int, *, right: bool = False) -> Tensor:
    """Texts as tokens of shape n x width, filled up with spaces: on the left, or with `right` behind the text."""
    padded = "".join(text.ljust(width) if right else text.rjust(width) for text in texts)
    return torch.from_numpy(_TOKENS[np.frombuffer(padded.encode(), np.uint8)].reshape(len(texts), width))


def decode(tokens: Tensor) -> list[str]:
    """Tokens of shape n x t as texts of t characters."""
    width = tokens.shape[1]
    joined = _CHARACTERS[tokens.cpu().numpy()].tobytes().decode()
    return [joined[start : start + width] for start in range(0, len(joined), width)]
