"""Studies: many runs and merges under equal budgets, and one page about them."""
