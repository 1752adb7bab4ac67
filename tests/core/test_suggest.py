"""What is suggested for a word that is not known."""

from ftune.core.suggest import did_you_mean


def test_the_closest_word_is_suggested() -> None:
    assert did_you_mean("alpcaa", ["alpaca", "sharegpt"]) == "; did you mean 'alpaca'?"
    assert did_you_mean("lroa", ["road", "lora", "hra"]) == "; did you mean 'lora'?"
    assert did_you_mean("RANK", ["rank", "alpha"]) == "; did you mean 'rank'?"


def test_where_nothing_is_close_all_is_told() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("zzz", []) == ""
