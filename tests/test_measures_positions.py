"""Windows of text and losses by position, against loops over documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icl_bench.measures.positions import average_windows, cut_windows


def test_windows_start_with_the_prefix_and_do_not_overlap():
    windows = cut_windows([list(range(10, 40)), list(range(50, 58))], [1], 8, 3)
    assert windows.input_ids.tolist() == [
        [1, *range(10, 17)],
        [1, *range(17, 24)],
        [1, *range(24, 31)],
        [1, *range(50, 57)],
    ]
    assert windows.documents.tolist() == [0, 0, 0, 1]
    assert windows.prefix == 1
    assert windows.of_first(1) == 3 and windows.of_first(9) == 4


def test_a_document_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="document 1"):
        cut_windows([[1] * 8, [1] * 7], [], 8, 1)


@pytest.mark.parametrize("prefix", [[], [3], [3, 4]])
def test_scores_are_those_of_a_loop_over_documents(prefix):
    rng = np.random.default_rng(0)
    documents = [list(range(count)) for count in (1100, 520, 2000)]
    windows = cut_windows(documents, prefix, 512, 3)
    nll = torch.from_numpy(rng.gamma(2, 1, (len(windows.input_ids), 511)))
    found = average_windows(windows, nll)

    place = 0
    for number, ids in enumerate(documents):
        count = min(3, len(ids) // (512 - len(prefix)))
        scores, late, windowed, means = [], [], [], []
        for row in nll[place : place + count].tolist():
            # The loss of text token k, where the row's first entry is that of id 1.
            loss = {column + 1 - len(prefix): value for column, value in enumerate(row)}
            loss = {k: value for k, value in loss.items() if k >= 0}
            if len(prefix) < 2:
                assert set(range(1, 511)) <= set(loss)
            scores.append(loss[499] - loss[49])
            late = [loss[k] for k in range(256, 511) if k in loss]
            early = [loss[k] for k in range(32, 64)]
            windowed.append(sum(late) / len(late) - sum(early) / 32)
            means.append(sum(loss.values()) / len(loss))
        place += count
        assert found.icl_score is not None
        assert found.icl_score[number] == pytest.approx(np.mean(scores))
        assert found.icl_score_windowed[number] == pytest.approx(np.mean(windowed))
        assert found.mean[number] == pytest.approx(np.mean(means))


def test_a_small_window_keeps_the_shares_and_has_no_500th_token():
    windows = cut_windows([list(range(64))], [], 64, 1)
    nll = torch.arange(1.0, 64.0)[None]
    found = average_windows(windows, nll)
    assert found.icl_score is None
    late, early = np.mean(range(32, 63)), np.mean(range(4, 8))
    assert found.icl_score_windowed == pytest.approx([late - early])
