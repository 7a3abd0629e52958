from imagebuild.errors import escape, show_plain


def test_what_is_not_printable_is_written_out() -> None:
    assert escape("Grüße, 語") == "Grüße, 語"
    assert escape("a\nb\r\x1b[1m\u2028\udcff") == r"a\nb\r\x1b[1m\u2028\udcff"
    assert escape("a\tb\n", keep="\t") == "a\tb\\n"


def test_a_terminal_is_given_lines_and_raw_bytes_and_no_more() -> None:
    assert show_plain("a\n\tb\udcff\x1b]0;title\x07") == "a\n\tb\udcff\\x1b]0;title\\x07"
