"""Checkers for the first exercises of chapters 8, 9, A2 and A4, as in `exercises`."""
