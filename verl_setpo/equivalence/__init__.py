"""Which answers are mathematically equal, by math-verify in processes of its own.

`worker` runs in such a process; `process` starts, asks and ends one; `clusters` sorts the answers of groups with them.
Importing this package, or `worker`, imports the standard library only: a worker holds neither torch nor verl nor ray.
"""
