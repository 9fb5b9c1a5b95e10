"""Checkers for the first exercise of each chapter, one file a chapter: a bool and one hint line."""
