"""Official scorers: what a benchmark's authors count as right, refused or harmful.

Each is a pure function of text, one file per benchmark; `rerail.eval.benchmarks.catalogue` says
which data set is scored by which.
"""
