"""A closing quiz: twenty questions drawn from a track's pool by a seed, and a sentence for each wrong answer.

The pools are ``undergraduate.toml`` and ``postgraduate.toml``. A question whose numbers are drawn has no text there, but a function
of its name, dashes as underscores, in the file of Python beside it::

    def steps_calls(draw):
        n = draw.choice([9, 18, 36])
        return Drawn(f"... a grid of {n} points ...", 2 * (n - 1), {n: "A step makes two calls."}, "Two calls a step.")
"""

import math
import random
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

TRACKS = ("undergraduate", "postgraduate")
LETTERS = "abcd"
COUNT = 20


@dataclass(frozen=True)
class Drawn:
    """A question with its numbers drawn: a choice where the answers are texts, else a number."""

    text: str
    right: str | float
    wrong: Mapping[Any, str]
    """A wrong answer → what is to be said of it."""
    why: str
    """Why the right answer is right, in a sentence."""
    tolerance: float = 0.015
    """How far a number may be off, relative to the right one."""


@dataclass(frozen=True)
class Question:
    """One question of a pool."""

    name: str
    idea: str
    """The idea of book/ideas.yml that it asks for."""
    page: str
    """The chapter to read again, as a path below book/."""
    draw: Callable[[random.Random], Drawn]


@dataclass(frozen=True)
class Verdict:
    """What became of one answer."""

    number: int
    name: str
    right: bool
    message: str
    answered: bool = True


class Sheet(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)

    __repr__ = str.__str__


@cache
def pool(track: str) -> dict[str, Question]:
    """All questions of a track, by name, in the order of its chapters."""
    if track not in TRACKS:
        raise ValueError(f"there is no track {track!r}; there are: {', '.join(TRACKS)}")
    numbers = import_module(f"cdedu.course.quiz.{track}")
    return read(Path(__file__).with_name(f"{track}.toml").read_text(encoding="utf-8"), numbers)


def read(text: str, numbers: Any) -> dict[str, Question]:
    """The questions of a pool; functions for those whose numbers are drawn are attributes of ``numbers``."""
    out: dict[str, Question] = {}
    for row in tomllib.loads(text)["question"]:
        name, idea, page = row.pop("name"), row.pop("idea"), row.pop("page")
        if name in out:
            raise ValueError(f"there are two questions named {name!r}")
        draw = partial(_fixed, Drawn(**row)) if row else getattr(numbers, name.replace("-", "_"))
        out[name] = Question(name, idea, page, draw)
    return out


def _fixed(drawn: Drawn, _: random.Random) -> Drawn:
    return drawn


class _Asked:
    """A question as it stands in one quiz, its options in their order."""

    def __init__(self, question: Question, draw: random.Random) -> None:
        self.question, self.drawn = question, question.draw(draw)
        self.options = [self.drawn.right, *self.drawn.wrong] if isinstance(self.drawn.right, str) else []
        draw.shuffle(self.options)

    @property
    def key(self) -> str | float:
        """The right answer, as it is to be given."""
        return LETTERS[self.options.index(self.drawn.right)] if self.options else self.drawn.right

    def text(self, number: int) -> str:
        lines = [f"**{number}.** {self.drawn.text}"]
        if self.options:
            lines += [""] + [f"- ({LETTERS[i]}) {option}" for i, option in enumerate(self.options)]
        else:
            lines[0] += " *(a number)*"
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """Options in their order with what is said of each; of a number its tolerance and the wrong values with their sentences."""
        drawn = self.drawn
        about = {
            "text": drawn.text,
            "why": drawn.why,
            "page": self.question.page,
            "chapter": _chapter(self.question.page),
        }
        if not self.options:
            return about | {
                "right": drawn.right,
                "tolerance": drawn.tolerance,
                "wrong": list(drawn.wrong.items()),
            }
        said = [drawn.why if one == drawn.right else drawn.wrong[one] for one in self.options]
        return about | {"options": self.options, "right": self.options.index(drawn.right), "said": said}

    def answer(self, value: Any, number: int) -> str | float:
        """What was answered, in the form of the key."""
        if self.options:
            letters = LETTERS[: len(self.options)]
            if isinstance(value, str) and len(value.strip()) == 1 and value.strip().lower() in letters:
                return value.strip().lower()
            raise ValueError(
                f"question {number} wants a letter from {letters[0]} to {letters[-1]}, not {value!r}"
            )
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise ValueError(f"question {number} wants a finite number, not {value!r}")
        return found

    def judge(self, value: str | float, number: int) -> Verdict:
        """Right, or the sentence for this mistake."""
        drawn, name = self.drawn, self.question.name
        if isinstance(value, str):
            option = self.options[LETTERS.index(value)]
            if option == drawn.right:
                return Verdict(number, name, True, drawn.why)
            return Verdict(number, name, False, drawn.wrong[option])

        def close(other: float) -> bool:
            return abs(value - other) <= drawn.tolerance * max(abs(other), 1e-9)

        assert not isinstance(drawn.right, str)
        if close(drawn.right):
            return Verdict(number, name, True, drawn.why)
        for other, message in drawn.wrong.items():
            if close(other):
                return Verdict(number, name, False, message)
        side = "low" if value < drawn.right else "high"
        return Verdict(number, name, False, f"{value:g} is too {side}.")


class Quiz:
    """Twenty questions of a track; the same seed is the same quiz.

    Args:
        track: "undergraduate" or "postgraduate".
        seed: which draw, a whole number. Every idea of the track is asked at least once in each.
    """

    def __init__(self, track: str, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"the seed of a quiz is a whole number, not {seed!r}")
        questions, draw = list(pool(track).values()), random.Random(f"{track} {seed}")
        mixed = draw.sample(questions, len(questions))
        first: dict[str, Question] = {}
        for one in mixed:
            first.setdefault(one.idea, one)
        others = [one for one in mixed if one not in first.values()]
        chosen = [*first.values(), *others][:COUNT]
        chosen.sort(key=questions.index)
        self.track, self.seed = track, seed
        self._asked = [_Asked(one, draw) for one in chosen]
        self._answers: dict[int, str | float] = {}

    @property
    def names(self) -> list[str]:
        """The names of the questions, in their order."""
        return [one.question.name for one in self._asked]

    def ask(self, number: int | None = None) -> Sheet:
        """One question, or all."""
        if number is not None:
            return Sheet(self._find(number).text(number))
        return Sheet("\n\n".join(one.text(i) for i, one in enumerate(self._asked, 1)))

    def data(self) -> list[dict[str, Any]]:
        """The questions with their answers and all that is said of them, for a page that judges without Python."""
        return [one.data() for one in self._asked]

    def answer(self, number: int, value: Any) -> None:
        """Keep an answer: a letter in quotation marks, or a number. A later one replaces it."""
        self._answers[number] = self._find(number).answer(value, number)

    def verdicts(self) -> list[Verdict]:
        """One a question."""
        found = []
        for i, one in enumerate(self._asked, 1):
            if i in self._answers:
                found.append(one.judge(self._answers[i], i))
            else:
                found.append(Verdict(i, one.question.name, False, "", answered=False))
        return found

    def score(self, answers: Mapping[int, Any] | None = None) -> int:
        """How many are right: of the answers kept, or of those given here, which replace them."""
        if answers is not None:
            self._answers = {i: self._find(i).answer(value, i) for i, value in answers.items()}
        return sum(one.right for one in self.verdicts())

    def grade(self) -> Sheet:
        """The score, and what is to be said of each wrong answer."""
        found = self.verdicts()
        lines = [f"**{sum(one.right for one in found)} of {len(found)}**", ""]
        for one, asked in zip(found, self._asked, strict=True):
            if one.answered and not one.right:
                lines.append(f"- **{one.number}.** ✗ {one.message} See {_chapter(asked.question.page)}.")
        if left := [str(one.number) for one in found if not one.answered]:
            lines.append(f"- Not answered: {', '.join(left)}")
        return Sheet("\n".join(lines))

    def key(self) -> Sheet:
        """The right answers, and what is wrong with the others."""
        lines = []
        for i, one in enumerate(self._asked, 1):
            shown = f"({one.key}) {one.drawn.right}" if one.options else _shown(one.drawn.right)
            lines += [f"**{i}.** {shown}", "", one.drawn.why, ""]
            for other, message in sorted(
                one.drawn.wrong.items(), key=lambda item: str(self._place(one, item[0]))
            ):
                lines.append(f"- {self._place(one, other)}: {message}")
            lines.append("")
        return Sheet("\n".join(lines).rstrip())

    def _place(self, one: _Asked, other: Any) -> str:
        return f"({LETTERS[one.options.index(other)]})" if one.options else _shown(other)

    def _find(self, number: int) -> _Asked:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(self._asked):
            raise ValueError(f"the questions are 1 to {len(self._asked)}; there is no {number!r}")
        return self._asked[number - 1]


def _shown(value: float) -> str:
    """A number for people: 0.4621, 17, 100,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _chapter(page: str) -> str:
    """undergraduate/01_noise → chapter 1"""
    stem = page.rpartition("/")[2].partition("_")[0]
    return f"chapter {int(stem)}" if stem.isdigit() else f"the {stem}"
