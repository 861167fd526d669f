"""What scripts/smoke_recipes.py does: recipes composed and checked, and those for FSDP trained for two steps."""
