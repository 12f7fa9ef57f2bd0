"""Colab, Binder and download of every notebook. The repository's name enters the book here, and nowhere else.

    BOOK_REPOSITORY=owner/name   default: the repository of _config.yml
    BOOK_VERSION=v1.0            a release, published in a folder of that name; default: the newest state of the branch

The build writes a copy of each notebook to `html/notebooks/`, whose set-up cell installs that repository (and that release), and whose
text is plain Markdown (`book_plain.py`); `book_page.py` puts the links on the pages. Colab opens the copy on the branch
`gh-pages`, to which `scripts/book/publish.sh` pushes the book,
and Binder fetches it from there, so that a fork edits no notebook.
"""

import os
import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import nbformat
from book_contents import deck, is_notebook
from book_plain import Plain
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util import logging

logger = logging.getLogger(__name__)

PUBLISHED = "gh-pages"
EXERCISES = ("exercises", "exercises/solutions")  # opened from the book, also where they are no page of it
MARK = re.compile(r'^\s*"# NBVAL_\w+\\n",\n', re.M)  # in the notebook's JSON
SOURCE = re.compile(r"git\+https://github\.com/[\w.-]+/[\w.-]+")


def configure(app: Sphinx, config: Any) -> None:
    """Take the names from the environment, and refuse those that would make wrong links."""
    options = config.html_theme_options
    name = os.environ.get("BOOK_REPOSITORY") or "/".join(options.get("repository_url", "").split("/")[-2:])
    version = os.environ.get("BOOK_VERSION", "")
    if not re.fullmatch(r"[\w-]+/[\w.-]+", name):
        raise ConfigError(f"BOOK_REPOSITORY is {name!r}; give owner/name, as in BOOK_REPOSITORY=cdedu/cdedu")
    if version and not re.fullmatch(r"v\d[\w.-]*", version):
        raise ConfigError(f"BOOK_VERSION is {version!r}; give a tag that begins with v and a digit, as v1.0")
    options["repository_url"] = f"https://github.com/{name}"
    config.book_repository, config.book_version = name, version


def links(config: Any, path: str) -> dict[str, str]:
    """Where the notebook `path` (from the root of the repository, without suffix) can be run."""
    folder = f"{config.book_version}/notebooks" if config.book_version else "notebooks"
    branch = config.book_version or config.html_theme_options.get("repository_branch", "main")
    # Binder builds its environment from the branch of the sources; nbgitpuller, which is in it, fetches the notebooks.
    pull = {
        "repo": f"https://github.com/{config.book_repository}",
        "branch": PUBLISHED,
        "urlpath": f"lab/tree/{config.book_repository.partition('/')[2]}/{folder}/{path}.ipynb",
    }
    return {
        "Colab": f"https://colab.research.google.com/github/{config.book_repository}/blob/{PUBLISHED}/{folder}/{path}.ipynb",
        "Binder": f"https://mybinder.org/v2/gh/{config.book_repository}/{branch}?urlpath={quote('git-pull?' + urlencode(pull), safe='')}",
    }


def notebooks(app: Sphinx) -> list[str]:
    """Every notebook to publish: those that are pages, and the exercises."""
    pages = {name for name in app.env.found_docs if is_notebook(app, name)}
    root = Path(app.srcdir)
    others = {
        p.relative_to(root).with_suffix("").as_posix() for d in EXERCISES for p in (root / d).glob("*.ipynb")
    }
    return sorted(pages | others)


def set_up(notebook: str, url: str) -> str:
    """The notebook's text with a set-up cell that installs from `url`, in the words of pip."""
    return SOURCE.sub(lambda _: url, notebook)


def site(config: Any) -> str:
    """The address of the published book."""
    return address(config.book_repository, config.book_version)


def address(repository: str, version: str) -> str:
    """Where Pages serves a repository's book; a release lies in a folder of its own."""
    owner, name = repository.split("/")
    root = f"https://{owner.lower()}.github.io" + f"/{name}" * (name.lower() != f"{owner.lower()}.github.io")
    return root + f"/{version}" * bool(version)


def url(config: Any) -> str:
    """What the set-up cells of this build install."""
    version = f"@{config.book_version}" if config.book_version else ""
    return f"git+https://github.com/{config.book_repository}{version}"


def name_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """The page shows the set-up cell as it is published, and no marks for the tests."""
    if is_notebook(app, page):
        source[0] = MARK.sub("", set_up(source[0], url(app.config)))


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """The copies in `html/notebooks/`."""
    if error or app.builder.format != "html":
        return
    plain = Plain(app, site(app.config))
    for name in notebooks(app):
        text = Path(app.srcdir, f"{name}.ipynb").read_text(encoding="utf-8")
        if not SOURCE.search(text):
            logger.warning("%s.ipynb has no set-up cell; copy the first code cell of another chapter", name)
        path = Path(app.outdir, "notebooks", f"{name}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = plain.notebook(nbformat.reads(text, as_version=4), name)
        path.write_text(set_up(nbformat.writes(copy), url(app.config)) + "\n", encoding="utf-8")


def row(app: Sphinx, page: str) -> str:
    """The line below the title of a notebook's page."""
    root = "../" * page.count("/")
    slides = f' <a href="{root}{deck(page)}">Slides</a>' if deck(page) else ""
    return (
        '<p class="launch">'
        f'<a class="launch-colab" href="{escape(links(app.config, page)["Colab"])}">'
        f'<img src="{root}_static/images/logo_colab.png" alt="" width="16" height="16"> Open in Colab</a> '
        f'<a href="{root}notebooks/{page}.ipynb" download>Download notebook</a>{slides}</p>'
    )


def add_buttons(app: Sphinx, page: str, context: dict[str, Any]) -> None:
    """The same links in the header."""
    context["sourcename"] = ""  # no second copy of the notebook, with the other set-up cell, in _sources/
    buttons = context.setdefault("header_buttons", [])
    for button in (button for group in buttons for button in group.get("buttons", [])):
        if button.get("label") == "download-source-button":
            button["url"] = f"{'../' * page.count('/')}notebooks/{page}.ipynb"
    there = links(app.config, page)
    launch = [
        {"type": "link", "text": name, "tooltip": f"Launch on {name}", "icon": f"_static/images/logo_{icon}", "url": there[name]}
        for name, icon in (("Colab", "colab.png"), ("Binder", "binder.svg"))
    ]  # fmt: skip
    group = {"type": "group", "tooltip": "Run this notebook", "icon": "fas fa-rocket", "buttons": launch}
    buttons.insert(0, {**group, "label": "launch-buttons"})


def setup(app: Sphinx) -> dict[str, Any]:
    # Links to tests are stored with the pages' content: another name means reading all pages again.
    app.add_config_value("book_repository", "", "env", types=str)
    app.add_config_value("book_version", "", "env", types=str)
    app.add_css_file("launch.css")
    app.connect("config-inited", configure, priority=100)
    app.connect("source-read", name_repository)
    app.connect("build-finished", write_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
