"""Parts of the benchmarks: the jobs, the ways of doing them, and what they cost."""
