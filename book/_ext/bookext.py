"""What the book adds to Sphinx.

- ``{result}`file.json:dotted.path|format` ``: a number from ``results/`` with its origin on a click;
- ``{chapter}`Title <undergraduate/01_noise>` ``: a link where the chapter exists, else "(planned)";
- every labeled equation names its code and its test in ``book/equations.yml``, or the build fails;
- five pages are written from their sources: API, equations, results, ideas and the instructor's guide (at ``<!-- api -->`` and so on);
- nothing on a page asks another host: the scripts of sphinx-thebe are switched off.
"""

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import book_ideas as ideas
import book_results as results
import book_teaching as teaching
import yaml
from book_contents import ROOT
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)

EQUATIONS = ROOT / "book" / "equations.yml"
PAGES = "book/reference/"
MODULES = {
    "The method": "noise solvers teacher mixture student perceptual losses samplers editing",
    "Data and networks": "data data.images data.pixels data.video data.points data.modes data.canvases networks networks.edm networks.guided "
    "networks.latent networks.sets networks.video networks.classifiers networks.bounds networks.text networks.lora data.captioned",
    "A run, from recipe to file": "course.plan course.plan_text recipes limits runtime training checkpoints files records runs samples",
    "Measuring": "evaluation evaluation.protocol evaluation.comparison evaluation.meter evaluation.tuning evaluation.inception evaluation.distance evaluation.captions course.measures.video "
    "course.measures.points course.measures.modes course.measures.links",
    "Other methods": "methods.progressive methods.adversarial methods.dmd methods.flow_map methods.latent methods.text methods.guidance",
    "Other people's models": "adapters pretrained pretrained.diffusers pretrained.edm pretrained.openai pretrained.pickles "
    "pretrained.pipeline pretrained.onnx pretrained.text_to_image pretrained.text_export pretrained.tiny",
    "Figures and sliders": "plotting course.interactive course.widgets",
    "Exercises and grading": "course.checks course.quiz course.grading course.race",
    "Command line": "fitting latents cli",
}
"""The API page: headings, and the modules under each."""


class ResultRole(SphinxRole):
    """A number from a results record."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            value, source = results.find(self.text)
            shown, name, _, _ = results.split(self.text)
        except results.ResultError as error:
            logger.warning("{result}: %s", error, location=self.get_location())
            return [nodes.inline(text="?")], []
        if shown is not None and shown != value:
            message = "{result} shows %s but results/%s has %s; run `make glue`"
            logger.warning(message, shown, name, value, location=self.get_location())
        self.env.note_dependency(str(results.RESULTS / name))
        html = f'<span class="result" data-origin="{escape(results.origin(source))}">{escape(value)}</span>'
        return [nodes.raw("", html, format="html"), nodes.raw("", value, format="latex text")], []


class ChapterRole(SphinxRole):
    """A chapter of the plan: linked once it is in the table of contents."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        title, _, path = self.text.rstrip(">").partition(" <")
        if f"book/{path}" not in self.env.found_docs:
            return [nodes.Text(title), nodes.inline(text=" (planned)", classes=["planned"])], []
        link = addnodes.pending_xref(
            "", refdomain="std", reftype="doc", reftarget=f"/book/{path}", refexplicit=True, refwarn=True
        )
        link["refdoc"] = self.env.docname
        link += nodes.inline(text=title)
        return [link], []


# --- equations -----------------------------------------------------------------------------------


def read_equations() -> dict[str, dict[str, list[str]]]:
    """label -> {"code": [dotted names], "test": [path::name, ...]}."""
    entries = yaml.safe_load(EQUATIONS.read_text(encoding="utf-8")) or {}
    return {
        label: {
            key: [value] if isinstance(value := entry.get(key) or [], str) else value
            for key in ("code", "test")
        }
        for label, entry in entries.items()
    }


def link_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Put ``code · test`` under each labeled equation."""
    equations = read_equations()
    app.env.note_dependency(str(EQUATIONS))
    for block in list(doctree.findall(nodes.math_block)):
        entry = equations.get(block.get("label") or "")
        if entry:
            block.parent.insert(block.parent.index(block) + 1, _equation_line(app, entry))


def _equation_line(app: Sphinx, entry: dict[str, list[str]]) -> nodes.Node:
    line = nodes.paragraph(classes=["equation-links"])
    for name in entry["code"]:
        reference = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refdoc=app.env.docname
        )
        reference += nodes.literal(text=name.removeprefix("cdedu."))
        line += [nodes.Text(" · ") if line.children else nodes.Text("code "), reference]
    for i, test in enumerate(entry["test"]):
        path, _, name = test.partition("::")
        line += nodes.Text(" · " if i else " · test ")
        line += nodes.reference("", "", nodes.literal(text=name), refuri=_file_url(app, path), internal=False)
    return line


def _file_url(app: Sphinx, path: str) -> str:
    options = app.config.html_theme_options
    return f"{options.get('repository_url', '')}/blob/{options.get('repository_branch', 'main')}/{path}"


def check_equations(app: Sphinx, env: BuildEnvironment) -> None:
    """Every label has an entry with code and test, every entry has its label."""
    labels: dict[str, tuple[str, int]] = env.get_domain("math").equations  # type: ignore[attr-defined]
    equations = read_equations()
    for label, (docname, _) in sorted(labels.items()):
        entry = equations.get(label, {"code": [], "test": []})
        if not (entry["code"] and entry["test"]):
            message = "equation %r has no code and test in book/equations.yml; add them"
            logger.warning(message, label, location=(docname, None))
    for label in sorted(set(equations) - set(labels)):
        logger.warning("book/equations.yml names %r, but no page has an equation of that label", label)


# --- pages written from their sources --------------------------------------------------------------


def write_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in the generated parts of a reference page, and warn of what its sources lack."""
    sources, problems, parts = GENERATED.get(docname.removeprefix(PAGES), ((), list, {}))
    for path in sources:
        app.env.note_dependency(str(path))
    for problem in problems():
        logger.warning(problem)
    for mark, write in parts.items():
        source[0] = source[0].replace(f"<!-- {mark} -->", write(app))


def reread_pages(app: Sphinx, env: BuildEnvironment, *_: Any) -> list[str]:
    pages = ("book/index", *(PAGES + page for page in GENERATED))
    return [page for page in pages if page in env.found_docs]


def _api(app: Sphinx) -> str:
    parts = []
    for title, modules in MODULES.items():
        parts.append(f"## {title}")
        for name in (f"cdedu.{module}" for module in modules.split()):
            directive = f".. automodule:: {name}\n   :members:\n   :special-members: __call__"
            parts.append(f"### `{name}`\n\n```{{eval-rst}}\n{directive}\n```")
    return "\n\n".join(parts)


def _equations(app: Sphinx) -> str:
    rows = ["| equation | code | test |", "|---|---|---|"]
    for label, entry in read_equations().items():
        code = ", ".join(f"{{py:obj}}`~{name}`" for name in entry["code"])
        tests = ", ".join(
            f"[`{t.partition('::')[2]}`]({_file_url(app, t.partition('::')[0])})" for t in entry["test"]
        )
        rows.append(f"| {{eq}}`{label}`\u00a0{equation_name(label)} | {code} | {tests} |")
    return "\n".join(rows) if len(rows) > 2 else "No chapter has a labeled equation yet."


def equation_name(label: str) -> str:
    """eq-gaussian-denoiser → Gaussian denoiser."""
    words = [NAMES.get(word, word) for word in label.removeprefix("eq-").split("-")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def order_equations(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """The equations page by number, which is known once all pages are read."""
    if page != f"{PAGES}equations":
        return
    for body in doctree.findall(nodes.tbody):
        body[:] = sorted(body, key=lambda row: int(re.search(r"\((\d+)\)|$", row.astext())[1] or 0))


def _results(app: Sphinx) -> str:
    parts = []
    for path in sorted(results.RESULTS.glob("*.json")):
        record = results.load(path.name)
        app.env.note_dependency(str(path))
        parts.append(f"## {path.stem}\n\n```console\n$ {record.get('command', '')}\n```")
        facts = [
            (key, results.short(record[key]))
            for key in ("recipe", "seed", "commit", "data", "hardware", "date", "seconds", "peak_memory_mb")
            if record.get(key) not in (None, "", {})
        ]
        parts.append(_table("run", "value", facts))
        parts.append(
            "```{dropdown} Every number of this record\n"
            + _table("metric", "value", results.flatten(record.get("metrics", {})))
            + "\n```"
        )
    return "\n\n".join(parts) or "There is no record yet."


def _ideas(app: Sphinx) -> str:
    parts = {f"{track.capitalize()} track": ideas.table(track) for track in teaching.TRACKS}
    parts["Systems"] = ideas.system_table()
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in parts.items())


def _table(left: str, right: str, rows: list[tuple[str, Any]]) -> str:
    def cell(value: Any) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {k} | {cell(v)} |" for k, v in rows)])


NAMES = {
    "gaussian": "Gaussian", "tweedie": "Tweedie", "euler": "Euler", "karras": "Karras", "heun": "Heun", "frechet": "Fréchet",
    "langevin": "Langevin", "chamfer": "Chamfer", "trigflow": "TrigFlow", "neighbour": "neighbor", "add": "ADD", "clip": "CLIP",
    "lcm": "LCM", "lora": "LoRA", "ode": "ODE", "pf": "PF", "vp": "VP", "ve": "VE", "dpm": "DPM",
}  # fmt: skip
"""Words of the labels of equations that are written otherwise."""

# page -> the files it is made of, what is wrong with them, and what stands for each mark
GENERATED: dict[str, tuple[tuple[Path, ...], Callable[[], list[str]], dict[str, Callable[[Sphinx], str]]]] = {
    "api": ((), list, {"api": _api}),
    "equations": ((EQUATIONS,), list, {"equations": _equations}),
    "results": ((), list, {"results": _results}),
    "ideas": ((ideas.IDEAS, ideas.SYSTEMS), ideas.problems, {"ideas": _ideas}),
    "instructors": (
        (teaching.TEACHING,),
        teaching.problems,
        {mark: lambda _, write=write: write() for mark, write in teaching.PARTS.items()},  # type: ignore[misc]
    ),
}


# --- set-up --------------------------------------------------------------------------------------


def configure(app: Sphinx, config: Any) -> None:
    """Settings that _config.yml cannot hold."""
    config.html_context.setdefault("default_mode", "auto")
    config.nb_ipywidgets_js = {}  # no page holds a widget; the default comes from another host


def drop_thebe(app: Sphinx) -> None:
    """sphinx-thebe comes with jupyter-book and adds scripts that load from another host."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [one for one in app.registry.css_files if "thebe" not in one[0]]


def setup(app: Sphinx) -> dict[str, Any]:
    drop_thebe(app)
    app.add_role("result", ResultRole())
    app.add_role("chapter", ChapterRole())
    app.connect("config-inited", configure, priority=100)
    app.connect("source-read", write_page)
    app.connect("env-get-outdated", reread_pages)
    app.connect("doctree-read", link_equations)
    app.connect("doctree-resolved", order_equations)
    app.connect("env-check-consistency", check_equations)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
