"""The closing quizzes of both tracks: ``Quiz("undergraduate", seed=1)``, ``ask``, ``answer``, ``grade``, ``key``."""

from cdedu.course.quiz.core import COUNT, TRACKS, Drawn, Question, Quiz, Sheet, Verdict, pool

__all__ = ["COUNT", "TRACKS", "Drawn", "Question", "Quiz", "Sheet", "Verdict", "pool"]
