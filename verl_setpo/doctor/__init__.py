"""What to find out before a run: whether the environment fits, and how good a judge is."""
