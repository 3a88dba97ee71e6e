"""The recipes of docs/recipes: each page's own commands against real HTTP servers."""
