"""Chapter 4: where a plain RNN starts."""

from charlm_utils.book.studies.points import Line, Study


def identity(lines: list[Line]) -> list[dict]:
    """Identity or torch's start, tanh or ReLU, over five learning rates."""
    common = {"core": "rnn", "epochs": 4, "batch_size": 32}
    kinds = [
        common | {"start": start, "nonlinearity": nonlinearity}
        for start in ("torch", "identity")
        for nonlinearity in ("tanh", "relu")
    ]
    return [kind | {"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2) for kind in kinds]


STUDIES = {
    "identity": Study("When does an identity start help a plain RNN?", 10, identity),
}
