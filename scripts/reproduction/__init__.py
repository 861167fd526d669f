"""What scripts/reproduce.py does: experiments through verl's own entrypoint, their evaluation, tables and plots."""
