"""What only pages use: figures, views, claims, records of long runs, one setup.

Nothing in ``icl_gd`` itself imports this, so that the mathematics needs neither
matplotlib nor a notebook.
"""
