"""What to do, as typed data: sections, loading, overrides, errors; free of torch."""

from reinforge.recipe.json_schema import json_schema
from reinforge.recipe.loading import Shipped, dump, load, shipped
from reinforge.recipe.recipe import Recipe
from reinforge.recipe.user_code import load_user_code

__all__ = ["Recipe", "Shipped", "dump", "json_schema", "load", "load_user_code", "shipped"]
