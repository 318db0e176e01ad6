"""Tables of text."""

from atrous._table import aligned


def test_columns_of_numbers_stand_right_and_words_left():
    assert aligned([("a", "long head"), ("word", "-1"), ("w", "20")]).splitlines() == [
        "a     long head",
        "word         -1",
        "w            20",
    ]


def test_a_column_with_one_number_is_one_of_numbers():
    assert aligned([("n",), ("-",), (10,)]) == " n\n -\n10"


def test_one_row_without_a_head():
    assert aligned([("changed", "0", "x")]) == "changed  0  x"
