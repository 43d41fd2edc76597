"""What all recipes have in common."""

from pathlib import Path

import pytest

from tests.examples.running import BROWSER, EXAMPLES
from tests.support.paths import ROOT

RECIPES = sorted([*EXAMPLES.glob("*.py"), *(path for path in BROWSER.glob("*/main.*") if path.suffix != ".js")])
# Of Go more, where each error takes three.
LONGEST = {".py": 120, ".ts": 80, ".go": 145}
PAGE = (ROOT / "docs" / "recipes.md").read_text()


def test_recipes_are_found() -> None:
    assert len(RECIPES) == 7


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: str(recipe.relative_to(EXAMPLES)))
def test_a_recipe_is_short_and_listed_and_begins_with_its_command(recipe: Path) -> None:
    lines = recipe.read_text().splitlines()
    assert len(lines) <= LONGEST[recipe.suffix]
    assert f"`{recipe.relative_to(ROOT)}`" in PAGE
    command = lines[0].split("`")[1]
    assert command.startswith(("python examples/", "uvicorn --app-dir examples", "npm ", "go run -C examples"))
