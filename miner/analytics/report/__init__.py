"""The report on the ledger: built once, written as text, JSON, CSV or one HTML page with plots."""
