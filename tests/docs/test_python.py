"""Python in the pages compiles, and what it imports is there; blocks marked as run are run by test_commands."""

from __future__ import annotations

import ast
import importlib
import importlib.util

RUN, COMPILED, FOREIGN = "# run by our tests", "# compiled by our tests", "# not run by our tests"


def test_the_page_says_what_is_run(python_block) -> None:
    if python_block.page.startswith("docs/"):
        assert python_block.marker in (RUN, COMPILED, FOREIGN)
    if python_block.marker == FOREIGN:
        assert python_block.text.partition("\n")[0].removeprefix(FOREIGN).startswith(": "), "it does not say why"


def test_it_compiles_and_imports_what_is_there(python_block) -> None:
    tree = ast.parse(python_block.text, str(python_block))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for name in modules:
            top = name.partition(".")[0]
            if python_block.marker == FOREIGN and importlib.util.find_spec(top) is None:
                continue
            module = importlib.import_module(name)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name} has no {alias.name}"
