"""The facts of text probes: enough of them, none twice, none that answers itself."""

from __future__ import annotations

import pytest

from icl_bench.errors import SettingsError
from icl_bench.reference.words import WORDS
from icl_bench.tasks import load_fuzzy_items, load_task, task_names


def words(text):
    return text.replace("-", " ").split()


def test_there_are_ten_tasks_and_more():
    assert len(task_names()) >= 10


@pytest.mark.parametrize("name", task_names())
def test_a_task_has_fifty_different_facts_that_do_not_answer_themselves(name):
    task = load_task(name)
    inputs = [given for given, _ in task.items]
    assert len(task.items) >= 50
    assert len(set(inputs)) == len(inputs)
    assert len(task.outputs) >= 4
    # Were an output another item's input, an example could show a query's own pair reversed.
    assert not set(inputs) & set(task.outputs)
    for given, wanted in task.items:
        assert given == given.strip() and wanted == wanted.strip() and given and wanted
        assert not set(words(given)) & set(words(wanted)), (given, wanted)
    if len(task.outputs) > 30:
        assert len(task.outputs) == len(task.items)


def test_unknown_tasks_are_named_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'antonym'"):
        load_task("antonyms")


def test_fuzzy_items_are_many_and_their_words_differ():
    items = load_fuzzy_items()
    assert len(items) >= 100
    assert len({item.word for item in items}) == len(items)
    assert len({frozenset((item.word, item.synonym)) for item in items}) == len(items)
    for item in items:
        four = (item.word, item.synonym, item.unrelated, item.other)
        assert len(set(four)) == 4 and item.first != item.second
    related = {(item.word, item.synonym) for item in items}
    related |= {(b, a) for a, b in related}
    for item in items:
        for control in (item.unrelated, item.other):
            assert (item.word, control) not in related
            assert (item.synonym, control) not in related


def test_some_fuzzy_items_are_in_the_words_of_the_built_in_models():
    known = set(WORDS)
    small = [item for item in load_fuzzy_items() if set(vars(item).values()) <= known]
    assert len(small) >= 8
