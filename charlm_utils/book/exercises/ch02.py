"""Chapter 2: how many parameters."""

from collections.abc import Callable

from charlm_utils.book.exercises.judge import Test, judge, none_of
from charlm_utils.models import ThreeCharModel, count_parameters


def check_ch02(answer: Callable) -> bool:
    """Chapter 2: `answer(vocab_size, embedding_dim, hidden_size, num_chars, shared)`, an int.

    The number of parameters of a model like `ThreeCharModel` that reads `num_chars`
    characters, with its green and orange arrows shared or with own ones at each place.
    """
    V, E, H, n = 11, 5, 7, 4  # no two numbers below are equal
    table, green, orange, blue = V * E, E * H + H, H * H + H, H * V + V
    shared, own = table + green + orange + blue, table + n * (green + orange) + blue

    def gives(wrong: tuple[int, bool]) -> bool:
        return answer(V, E, H, n, wrong[1]) == wrong[0]

    biases = "each nn.Linear has a bias for every output; count the biases too"
    once = "only green and orange are repeated; there is one embedding and one blue arrow"
    rows = "the embedding is a table of vocab_size times embedding_dim weights"
    wrong = [
        ((shared - 2 * H - V, True), biases),
        ((own - 2 * n * H - V, False), biases),
        ((own, True), "shared arrows are counted once, however many characters are read"),
        ((shared, False), "not shared: num_chars green and orange arrows"),
        *(((count, False), once) for count in (own + 3 * table, own + 3 * blue, n * shared)),
        ((shared - table, True), rows),
    ]
    number = "return one number, the count of all parameters"
    first = (lambda: answer(V, E, H, n, True) == int(answer(V, E, H, n, True)) > 0, number)
    both = (
        lambda: gives((shared, True)) and gives((own, False)),
        "try 4 characters of other sizes",
    )
    return judge([first, *none_of(gives, wrong), _same_as_the_book(answer), both])


def _same_as_the_book(answer: Callable) -> Test:
    book = count_parameters(ThreeCharModel(84, 42, 256))
    hint = "compare with count_parameters(ThreeCharModel(84, 42, 256))"
    return (lambda: answer(84, 42, 256, 3, True) == book, hint)
