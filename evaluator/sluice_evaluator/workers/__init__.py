"""The evaluator's workers: each module has `run(job, reporter)`."""
