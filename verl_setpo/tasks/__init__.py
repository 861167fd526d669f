"""Tasks with many correct answers to a prompt: their problems, rewards and datasets, and tiny models to learn them.

Importing this package, or `rewards`, needs the standard library only.
"""
