"""Print what pyproject.toml requires for some of its extras, one requirement a line, for an image's first layer.

Dependencies come before the sources in an image, so that a changed source does not fetch them again. Extras that name
other extras of the project are followed; `--without NAME` leaves out what the image has from elsewhere.
"""

import argparse
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def name_of(requirement: str) -> str:
    """Return the normalised name of a requirement, e.g. `ray` of `ray[train]>=2.60`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"no requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def requirements(project: Mapping[str, Any], extras: Iterable[str], *, without: Collection[str] = ()) -> list[str]:
    """Return the project's own dependencies and those of `extras`, sorted.

    Raises:
        KeyError: the project has no such extra.
    """
    optional = project["optional-dependencies"]
    found, seen, open_extras = set(project["dependencies"]), set[str](), list(extras)
    while open_extras:
        extra = open_extras.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in optional[extra]:
            if name_of(requirement) == project["name"]:
                open_extras += requirement.partition("[")[2].partition("]")[0].split(",")
            else:
                found.add(requirement)
    return sorted(each for each in found if name_of(each) not in without)


def main(argv: Sequence[str] | None = None) -> int:
    """`requirements.py EXTRA… [--without NAME]…`: print the requirements; 2 for an extra that there is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="+")
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--project", type=Path, default=Path("pyproject.toml"))
    arguments = parser.parse_args(argv)
    project = tomllib.loads(arguments.project.read_text(encoding="utf-8"))["project"]
    try:
        lines = requirements(project, arguments.extras, without=set(arguments.without))
    except KeyError as error:
        parser.error(f"{arguments.project} has no extra {error}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
