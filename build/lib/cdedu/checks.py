"""What exercise notebooks import: :mod:`cdedu.course.checks`."""

from cdedu.course.checks import check, hint, passed

__all__ = ["check", "hint", "passed"]
