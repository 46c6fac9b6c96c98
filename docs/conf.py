"""How Sphinx makes the site of docs/ and of the docstrings: `make docs`."""

import re

import convinit_ext

project = "convinit_ext"
version = release = convinit_ext.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"convinit_ext {release}"
html_copy_source = html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"no-value": True}  # a recipe is pages long
napoleon_numpy_docstring = False

CODE = re.compile(r"`+([^`]+)`+|((?:\b[\w.]+)?\w_(?:\([^()]*\))?(?![\w`]))")


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are for a prompt: `code` and names such as fill_ are neither references nor links there."""
    if getattr(obj, "__module__", "").startswith("torch"):  # PyTorch's are written for Sphinx
        return
    paragraphs = "\n".join(lines).split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        text, prompt, example = paragraph.partition(">>>")
        plain, one, other = (CODE.split(text)[start::3] for start in range(3))
        codes = [f"``{first or second}``" for first, second in zip(one, other, strict=True)]
        escaped = [piece.replace("*", r"\*") for piece in plain]
        text = "".join(map("".join, zip(escaped, [*codes, ""], strict=True)))
        paragraphs[number] = text + prompt + example
    lines[:] = "\n\n".join(paragraphs).split("\n")
    if what == "property":  # of which napoleon takes what is before a colon for a type
        lines[0] = lines[0].replace(":", ";", 1)


def setup(app):
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon, at 500
