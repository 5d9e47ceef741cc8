"""Money: amounts, the ledger that holds and settles them, and models of what a job will cost."""
