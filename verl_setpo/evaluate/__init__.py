"""Evaluation of models on test sets: many samples a prompt by vLLM, graded, resumable, and their figures.

A folder of `verl-setpo evaluate`, in which a run has one or many steps (checkpoints):

    evaluation.json                   how the samples are drawn, of what; written before the first of them
    RUN/SET/validation/STEP.jsonl     graded samples in verl's own format, so RUN/SET is a run of `verl-setpo report`
    RUN/SET/validation/STEP.part.jsonl    samples of an evaluation that is not finished, in order of completion
    RUN/merged/STEP/                  a checkpoint's shards as one Hugging Face folder
    RUN/engine-STEP.log               what vLLM said
    summary.json, summary.md
"""
