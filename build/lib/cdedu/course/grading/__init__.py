"""Grade a folder of submissions: a process each with limits and without network, judged by checks that it cannot reach.

The submission's code runs in a process of its own (``sandbox.py``). The checks run in another (``judge.py``): they call the answers
through stand-ins (``wire.py``), and only values come back. So whatever a notebook does to its own copy of the checks, or prints,
changes no grade. A third watches those that judge (``workers.py``).
"""

from cdedu.course.grading.folder import grade_folder
from cdedu.course.grading.judge import Limits, hidden
from cdedu.course.grading.results import Grade

__all__ = ["Grade", "Limits", "grade_folder", "hidden"]
