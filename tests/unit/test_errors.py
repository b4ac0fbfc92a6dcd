"""How errors name things."""

import pytest

from nnunet_ssl.errors import few


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        ([], 5, ""),
        (["a"], 5, "a"),
        (["a", "b"], 2, "a, b"),
        (["a", "b", "c"], 2, "a, b and 1 more"),
        (range(10), 3, "0, 1, 2 and 7 more"),
        ((name for name in "abc"), 1, "a and 2 more"),
    ],
)
def test_few_names_and_the_number_of_the_others(names, most, text):
    assert few(names, most) == text
