"""What Sphinx and its extensions leave untidy on our pages."""

import json
import re
import shutil
from pathlib import Path


def scripts_once(app, pagename, templatename, context, doctree):
    """Keep one of each script.

    sphinx-thebe, which Jupyter Book always loads, has its constants written twice with Sphinx 7.4:
    the browser then reports an error on every page.
    """
    kept = {}
    for script in context.get("script_files", []):
        kept.setdefault((script.filename or "", script.attributes.get("body")), script)
    context["script_files"] = list(kept.values())


def entries_of_a_list(app, pagename, templatename, context, doctree):
    """Call the entries of a bibliography what the items of a list are called."""
    if body := context.get("body"):
        context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def array_by_its_public_name(app, what, name, obj, options, signature, returns):
    """Write jax.Array where jaxtyping's annotations show the private class behind it."""
    private = r"~?(jax\.)?jaxlib\._jax\.Array"
    return tuple(s and re.sub(private, "~jax.Array", s) for s in (signature, returns))


def no_bare_fields(app, what, name, obj, skip, options):
    """Leave out a named tuple's fields: its signature has them, with their shapes."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def nothing_that_no_reader_loads(app, exception):
    """Leave out the theme's source maps and the translations of its words, a sixth of the site."""
    static = Path(app.outdir, "_static")
    for path in static.rglob("*.map"):
        path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)


def notebooks_to_run(app, exception):
    """Take the outputs out of the notebooks that a page offers, a quarter of the site."""
    for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def setup(app):
    app.connect("html-page-context", scripts_once, priority=900)
    app.connect("html-page-context", entries_of_a_list)
    app.connect("autodoc-process-signature", array_by_its_public_name)
    app.connect("autodoc-skip-member", no_bare_fields)
    app.connect("build-finished", notebooks_to_run)
    app.connect("build-finished", nothing_that_no_reader_loads, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
