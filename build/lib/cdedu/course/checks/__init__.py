"""Instant feedback on the exercises: `check("noise-guess")`, `hint("noise-guess")`. Needs nothing but this package."""

from cdedu.course.checks.core import Exercise, Result, check, exercises, grade, hint, passed

__all__ = ["Exercise", "Result", "check", "exercises", "grade", "hint", "passed"]
