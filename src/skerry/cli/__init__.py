"""The command line `skerry`.

`main.py` holds the tree by names only; a command's module is imported when it runs, and heavy
libraries inside functions, so that `skerry --help` answers at once.
"""
