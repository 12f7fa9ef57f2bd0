"""The course's entries to the race: each file is one, and can be copied."""
