"""Grade a folder of submissions: a process each with limits and without network, judged by checks that it cannot reach.

The submission's code runs in a process of its own (``sandbox.py``). The checks run in the grader's: they call the
answers through stand-ins (``wire.py``), and only values come back. So whatever a notebook does to its own copy of the
checks, or prints, changes no grade.
"""

from cdedu.course.grading.folder import Grade, grade_folder
from cdedu.course.grading.judge import Limits, hidden

__all__ = ["Grade", "Limits", "grade_folder", "hidden"]
