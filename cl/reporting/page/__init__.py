"""The page that compares methods over seeds and budgets: statistics, the answer, tables and pictures in one file."""
