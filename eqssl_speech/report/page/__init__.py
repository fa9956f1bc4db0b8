"""`eqssl report`: a page of pictures and tables about runs, evaluations, adaptations and studies."""
