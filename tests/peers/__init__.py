"""padim-bench beside other implementations of the same work, in one run: ``python -m tests.peers``.

Time, memory and whether the result is right, of both sides, on the same inputs with the same threads.
All rows take an hour or two on 2 cores, those of 550 dimensions some 20 GB. Whole runs need PADIM_BENCH_DATA
and PADIM_BENCH_WEIGHTS. Rows that are there already are kept: an interrupted run goes on where it was.
Rows with contenders that are new are measured again.

    rows.py        what is measured: sizes, contenders, targets
    fit.py distance.py embedding.py metrics.py runs.py    the tasks: inputs, contenders, comparison
    reference.py   what is right: float64, from the definitions (of distances, padim/equations.py)
    scripts.py     PaDiM as popular scripts do it, in plain NumPy: a contender, and no reference
    theirs.py      everything that touches anomalib
    worker.py      a fresh process that measures; measure.py starts it
    report.py      results.json, peers.md, peers.csv of one machine
    machines.py    a folder for each machine, and peers.md above them
"""
