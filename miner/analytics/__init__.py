"""Statistics of the ledger: acceptance rates with intervals, ratings, experiments and the report.

`aggregate` sums tasks up for both the report and the dashboard; `assignment` and `sequential_test` run experiments.
"""
