"""Several ranks: how they are started, who they are and what they tell each other."""
