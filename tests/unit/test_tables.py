"""Tables as they are printed."""

import numpy as np
import pytest

from nnunet_ssl.tables import format_table


def test_columns_are_aligned_and_numbers_stand_right():
    table = format_table([["left", 8, 0.91234567], ["right atrium", 12, 1.0]], ["label", "cases", "Dice"])
    assert table.split("\n") == [
        "label         cases    Dice",
        "------------  -----  ------",
        "left              8  0.9123",
        "right atrium     12       1",
    ]


def test_a_missing_value_leaves_its_column_numeric():
    assert format_table([[1], [None]], ["n"]).split("\n") == ["n", "-", "1", "-"]
    assert format_table([[100], [None]], ["n"]).split("\n") == ["  n", "---", "100", "  -"]


def test_numpy_numbers_are_numbers_and_booleans_are_text():
    table = format_table([[np.float32(0.123456), np.int64(7), True]], ["float", "integer", "flag"])
    assert table.split("\n")[-1] == "0.1235        7  True"


def test_no_rows_leave_the_header():
    assert format_table([], ["a", "bc"]).split("\n") == ["a  bc", "-  --"]


def test_a_row_of_another_length_is_an_error():
    with pytest.raises(ValueError, match=r"Expected 2 values in each row \(a, b\), got 1"):
        format_table([["x"]], ["a", "b"])
