"""SetPO and Poly-EPO for verl. Importing this package imports neither verl nor ray; `verl_setpo.plugin` does."""

__version__ = "0.1.0"
