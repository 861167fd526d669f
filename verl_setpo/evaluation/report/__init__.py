"""The page of `verl-setpo report`: one HTML file with charts, tables and rollouts, which needs nothing else."""
