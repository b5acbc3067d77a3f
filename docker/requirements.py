"""Print what the project needs, a requirement a line: `python requirements.py pyproject.toml [EXTRA ...]`.

Image builds install it before they copy the project's code, so that a change of code leaves that layer as it is.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """The project's own dependencies and those of its extras, in the file's order. Raises KeyError for no extra."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]).read_text(), sys.argv[2:])) + "\n")
