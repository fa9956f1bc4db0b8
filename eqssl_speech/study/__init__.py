"""Studies: many trainings that differ in what a file says, run in order, resumed, and compared with intervals."""
