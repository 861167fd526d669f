"""`verl-setpo credit`: what each estimator would give the rollouts of a file, before a run is paid for.

The advantages are the trainer's: its own step, estimators and checks of keys, fed from a file instead of verl's queue.
"""
