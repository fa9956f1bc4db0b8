"""Model families that fairseq2 lacks, and repairs of those that it has."""
