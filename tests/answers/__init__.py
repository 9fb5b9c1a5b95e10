"""Answers to the first exercise of each chapter, one file a chapter, named as the chapter.

Each has CHECK, the checker; RIGHT, a list; WRONG, the answers by what they are told (or, where two
are told the same, a list of pairs, answer and hint); NONSENSE, which no checker may stumble over.
"""

# what no exercise asks for
ANYWHERE = [
    None,
    "a text",
    lambda: 1,
    lambda *given: None,
    lambda *given: [1, 2, 3],
    lambda *given: 1 / 0,
]
