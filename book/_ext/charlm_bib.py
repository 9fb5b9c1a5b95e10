"""Bibliography labels by author and year, as the text cites: [Kneser and Ney, 1995]."""

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle


def author_year(entry):
    """`Elman, 1990`, `Kneser and Ney, 1995` or `Cho et al., 2014`."""
    people = entry.persons["author"]
    names = [" ".join(person.prelast_names + person.last_names) for person in people]
    shown = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
    return f"{shown}, {entry.fields['year']}"


class AuthorYearLabels(BaseLabelStyle):
    def format_labels(self, sorted_entries):
        return map(author_year, sorted_entries)


class Style(PlainStyle):
    default_label_style = AuthorYearLabels


def setup(app):
    register_plugin("pybtex.style.formatting", "author_year", Style)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
