"""Plain nouns of Backbench: specifications, frames, budgets, errors. Standard library only."""
