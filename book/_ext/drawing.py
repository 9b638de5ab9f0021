"""The drawing of pairs on pages that are not notebooks: ``{pairs}`` with the parts as content."""

from docutils import nodes
from docutils.parsers.rst import Directive

from icl_gd.book import drawing


class Pairs(Directive):
    """``drawing.pairs`` of the parts that are named, such as ``1 2 3``."""

    has_content = True

    def run(self):
        view = drawing.pairs([int(part) for part in " ".join(self.content).split()])
        return [nodes.raw("", view.html, format="html")]


def setup(app):
    app.add_directive("pairs", Pairs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
