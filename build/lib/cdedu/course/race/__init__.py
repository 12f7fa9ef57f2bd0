"""The race: who makes the best student of one teacher with one budget of network evaluations?

An entry is a file of Python with a function ``train`` (``methods/`` has the course's own). It runs in the graders' sandbox under
``inside.py``, which counts what it spends; its student comes back as safetensors, is checked against the teacher, and is sampled and
measured outside, by ``outside.py``, with noise that the entry has not seen.
"""

from cdedu.course.race.outside import METHODS, Entry, EntryError, Race, found_in, run, table

__all__ = ["METHODS", "Entry", "EntryError", "Race", "found_in", "run", "table"]
