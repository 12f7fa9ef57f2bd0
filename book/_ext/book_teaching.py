"""The teaching plans of book/teaching.yml: the generated parts of the instructor's guide, and what the slides' notes take from them.

The guide (book/reference/instructors.md) has marks such as `<!-- plan undergraduate -->`. The build stops where a plan names a
chapter's section, an exercise or an idea that does not exist, and where an idea that the course promises has no chapter, exercise,
quiz question or minutes.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import book_ideas as ideas
import book_results as results
import yaml
from book_contents import ROOT, chapters, deck, list_table, pages

TEACHING = ROOT / "book" / "teaching.yml"
TRACKS = ("undergraduate", "postgraduate")
Class = dict[str, Any]


@cache
def read() -> dict[str, Any]:
    """Track → its classes; machines → what a chapter wants beyond two CPU cores; claims → what is examined."""
    return yaml.safe_load(TEACHING.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def classes(page: str = "") -> list[Class]:
    """All classes, or those on one chapter, in order."""
    return [one for track in TRACKS for one in read()[track] if not page or page in one["chapters"]]


def minutes(idea: str) -> int:
    """What the plans spend on an idea, in class."""
    return sum(step[0] for one in classes() for step in one["steps"] if step[2:] == [idea])


def quiz(idea: str) -> list[str]:
    """The questions of the closing quizzes that ask for it."""
    from cdedu.course.quiz import pool

    return [name for track in TRACKS for name, one in pool(track).items() if one.idea == idea]


# --- for the slides ----------------------------------------------------------------------------------


def opening(page: str) -> list[str]:
    """The notes of a chapter's first slide: goals, and remarks that belong to no section."""
    found = []
    for one in classes(page):
        goals = "\n".join(f"- {goal}" for goal in one["goals"])
        found.append(f"**{one['title']}** ({length(one)} minutes)\n\n{goals}")
        found += [remark(note) for note in one["notes"] if "at" not in note]
    return found


def remarks(page: str, section: str) -> list[str]:
    """The notes of the slide that opens a section."""
    return [remark(note) for one in classes(page) for note in one["notes"] if note.get("at") == section]


def remark(note: dict[str, str]) -> str:
    words = {"stumble": "Where they stumble", "ask": "Ask"}
    return "\n\n".join(f"**{name}.** {note[key]}" for key, name in words.items() if key in note)


# --- for the guide -----------------------------------------------------------------------------------


def length(one: Class) -> int:
    """Minutes of a class."""
    return sum(step[0] for step in one["steps"])


def at_home(one: Class) -> list[str]:
    """The exercises of its sets, as far as these are in the book, that no class of its track does."""
    track = next(track for track in TRACKS if one in read()[track])
    done = {name for other in read()[track] for name in other["exercises"]}
    sets = [where for where in one["home"] if f"exercises/{where}" in pages()]
    return [name for name, where in ideas.sets().items() if where in sets and name not in done]


def exercise_links(names: list[str]) -> str:
    from cdedu.course.checks.core import exercises

    return "; ".join(
        f"{{doc}}`{exercises()[name].title} </exercises/{ideas.sets()[name]}>` ({exercises()[name].minutes})"
        for name in names
    )


def plan(track: str) -> str:
    """All classes of a track, by week."""
    out: list[str] = []
    week = 0
    for number, one in enumerate(read()[track], 1):
        if one["week"] != week:
            week = one["week"]
            out.append(f"### Week {week}, {track} track")
        out.append(f"#### Class {number}: {one['title']}")
        about = [f"{length(one)} minutes"]
        about += [f"{ideas.link(page)}{slides(page)}" for page in one["chapters"]]
        out += [" · ".join(about), f"**Before.** {one['before']}", "**Goals.**"]
        out.append("\n".join(f"- {goal}" for goal in one["goals"]))
        rows = [[*step[:2], "".join(step[2:])] for step in one["steps"]]
        out.append(list_table(["minutes", "what", "idea"], rows, "10 60 30"))
        for title, names in (("In class", one["exercises"]), ("At home", at_home(one))):
            if names:
                out.append(f"**{title}** (minutes). {exercise_links(names)}.")
            elif title == "At home" and one["home"]:
                out.append("**At home.** The exercises of the chapter.")
        for key, title in (("stumble", "Where students stumble"), ("ask", "What to ask")):
            lines = [
                f"- *{note['at']}*: {note[key]}" if "at" in note else f"- {note[key]}"
                for note in one["notes"]
                if key in note
            ]
            if lines:
                out.append(f"**{title}.**\n\n" + "\n".join(lines))
    return "\n\n".join(out)


def slides(page: str) -> str:
    """A link to the deck of a chapter that has one."""
    there, name = deck(f"book/{page}"), Path(page).name.replace("_", " ")
    return f' (<a href="../../{there}">slides {name}</a>)' if there else ""


def machines() -> str:
    """Time and memory of each chapter as recorded, and what it wants besides."""
    known, rows = results.load("chapters.json")["metrics"], []
    for page in chapters():
        seconds = memory = "not yet measured"
        if found := known.get(Path(page).name):
            seconds, memory = f"{found['seconds']:.0f}", f"{found['peak_memory_mb']:,} MB"
        machine = read()["machines"].get(page.removeprefix("book/"), "Any laptop, or Colab without a GPU")
        rows.append([f"{{doc}}`/{page}`", seconds, memory, machine])
    title = "Time and memory of the chapters, as recorded"
    return list_table(["chapter", "seconds", "memory", "machine"], rows, title=title)


def table(track: str) -> str:
    """Each idea of a track with chapter, exercises, quiz questions and minutes."""
    from cdedu.course.checks.core import exercises

    rows = []
    for row in (row for row in ideas.read() if row["track"] == track):
        names = [n for n in row["exercises"] or [] if f"exercises/{ideas.sets().get(n)}" in pages()]
        asked = "; ".join(f"{{doc}}`{exercises()[n].title} </exercises/{ideas.sets()[n]}>`" for n in names)
        time = [f"{minutes(row['idea'])} in class"] if minutes(row["idea"]) else []
        time += [f"{sum(exercises()[name].minutes for name in names)} of exercises"] if names else []
        rows.append(
            [
                f"**{row['idea']}**" if row.get("core") else row["idea"],
                ", ".join(ideas.link(page) for page in row["taught"]),
                asked or "chapter to come",
                ", ".join(f"`{name}`" for name in quiz(row["idea"])) or "–",
                ", ".join(time) or "–",
            ]
        )
    heads = ["idea", "chapter", "exercises", "quiz questions", "minutes"]
    return list_table(heads, rows, "22 18 26 22 12", f"The ideas of the {track} track")


def claims() -> str:
    """What is said about the method, what the book finds, and where."""
    rows = [
        [
            row["claim"],
            row["found"],
            ", ".join(ideas.link(page) for page in row["chapters"]),
            exercise_links(row["exercises"]),
            ", ".join(f"`{name}`" for name in row["quiz"]),
        ]
        for row in read()["claims"]
    ]
    heads = ["claim", "what the book finds", "chapter", "exercises (minutes)", "quiz questions"]
    return list_table(heads, rows, "20 26 18 20 16", "Claims that the course examines")


def problems() -> list[str]:
    """What a plan names and nothing has, and what an idea of the course lacks."""
    known, found = {row["idea"] for row in ideas.read()}, []
    for one in classes():
        here = f"book/teaching.yml, {one['title']!r}"
        for step in one["steps"]:
            if len(step) not in (2, 3) or not isinstance(step[0], int):
                found.append(f"{here}: a step is [minutes, what, idea], not {step}")
            elif step[2:] and step[2] not in known:
                found.append(f"{here}: book/ideas.yml has no idea {step[2]!r}")
        found += [f"{here}: there is no exercise {n!r}" for n in one["exercises"] if n not in ideas.sets()]
        if all(f"book/{page}" in pages() for page in one["chapters"]):
            heads = {head for page in one["chapters"] for head in ideas.sections(page)}
            names = [note["at"] for note in one["notes"] if "at" in note and note["at"] not in heads]
            found += [f"{here}: {', '.join(one['chapters'])} has no section {name!r}" for name in names]
    from cdedu.course.quiz import pool

    questions = {name for track in TRACKS for name in pool(track)}
    for row in read()["claims"]:
        here = f"book/teaching.yml, claim {row['claim']!r}"
        found += [f"{here}: there is no exercise {n!r}" for n in row["exercises"] if n not in ideas.sets()]
        found += [f"{here}: there is no quiz question {n!r}" for n in row["quiz"] if n not in questions]
    for row in ideas.read():
        if not quiz(row["idea"]):
            found.append(f"no question of cdedu/course/quiz asks for {row['idea']!r}")
        if row.get("core") and not minutes(row["idea"]):
            found.append(f"no class of book/teaching.yml spends minutes on {row['idea']!r}")
    return found


PARTS: dict[str, Callable[[], str]] = {
    "machines": machines,
    "claims": claims,
    **{f"plan {track}": partial(plan, track) for track in TRACKS},
    **{f"ideas {track}": partial(table, track) for track in TRACKS},
}
"""Mark of the guide → what stands there."""
