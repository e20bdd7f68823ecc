"""Jinja templates of a package, the same way for the report and the dashboard."""

from __future__ import annotations

import jinja2

from hpo import text


def templates(package: str) -> jinja2.Environment:
    """The templates of `package`: everything is escaped, an unknown name is an error, numbers read well."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=text.number, duration=text.duration, value=text.value, label=text.label)
    return environment
