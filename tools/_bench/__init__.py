"""Parts of tools/bench_inner.py: the job, the ways of doing it, and what they cost."""
