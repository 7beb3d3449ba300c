"""Print the project's dependencies pinned to their lower bounds, for `make test-lowest`.

Run it: python tests/lowest_versions.py > requirements.txt
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
for requirement in project["dependencies"]:
    name, bound = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement).groups()  # type: ignore[union-attr]
    print(f"{name}=={bound}")
