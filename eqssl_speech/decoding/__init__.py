"""From frame-wise log-probabilities to text: searches, alignments and error rates; nothing of fairseq2."""
