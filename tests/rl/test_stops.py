"""Where responses end: with the first stop token, whatever the padding is."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.rl.stops import cut_at_stop

EOS = 9


def test_the_stop_token_counts_when_padding_is_the_same_token():
    lengths, stopped = cut_at_stop(torch.tensor([[1, 2, EOS, EOS], [1, 2, 3, 4], [EOS, EOS, EOS, EOS]]), [EOS])
    assert lengths.tolist() == [3, 4, 1]
    assert stopped.tolist() == [True, False, True]


def test_a_pad_token_inside_a_response_stays_in_it():
    pad = 0
    lengths, stopped = cut_at_stop(torch.tensor([[1, pad, 2, EOS, pad], [pad, pad, 2, 3, pad]]), [EOS])
    assert lengths.tolist() == [4, 5]
    assert stopped.tolist() == [True, False]


def test_without_stop_tokens_nothing_stops():
    lengths, stopped = cut_at_stop(torch.tensor([[1, 2]]), [])
    assert lengths.tolist() == [2]
    assert stopped.tolist() == [False]


@given(
    st.integers(1, 7).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=1)
    ),
    st.sets(st.integers(0, 5)),
)
def test_every_row_is_cut_like_a_list(rows, stop_ids):
    lengths, stopped = cut_at_stop(torch.tensor(rows), sorted(stop_ids))
    for row, length, ended in zip(rows, lengths.tolist(), stopped.tolist(), strict=True):
        places = [place for place, token in enumerate(row) if token in stop_ids]
        assert length == (places[0] + 1 if places else len(row))
        assert ended == bool(places)
