"""Near duplicates: similarity against brute force, recall and precision on generated rows, samples, hashes."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.data.audit.audit import Audit
from ftune.data.audit.duplicates import Duplicates
from ftune.data.audit.near import SIMILAR, SMALLEST, Sketches, similar_pairs, similarity, sketch, word_hashes
from ftune.data.audit.texts import texts_of
from ftune.data.example import Text


def grams(text):
    """The set of word 5-grams, the slow way; a short text is one gram."""
    words = text.casefold().split()
    return {tuple(words[start : start + 5]) for start in range(max(len(words) - 4, 1))}


def jaccard(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def estimated(one, other):
    found = sketch([word_hashes(one), word_hashes(other)])
    return similarity(found.smallest[:1], found.smallest[1:])[0]


few_words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=60).map(" ".join)


@given(few_words, few_words)
def test_the_similarity_of_short_texts_is_exact(one, other):
    assert estimated(one, other) == pytest.approx(jaccard(one, other))


@pytest.mark.parametrize("changed", [0, 5, 20, 60])
def test_the_similarity_of_long_texts_is_estimated(changed):
    rng = random.Random(changed)  # noqa: S311
    errors = []
    for _ in range(50):
        words = [str(rng.random()) for _ in range(1000)]
        other = list(words)
        for place in rng.sample(range(1000), changed):
            other[place] = "changed"
        errors.append(estimated(" ".join(words), " ".join(other)) - jaccard(" ".join(words), " ".join(other)))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) <= 1.2 * 0.5 / SMALLEST**0.5


def test_neighbours_in_a_batch_do_not_change_a_sketch():
    texts = ["", "one", "a b c d e f g", "a b c d e", "word " * 50, " ".join(map(str, range(500)))]
    together = sketch([word_hashes(text) for text in texts])
    for row, text in enumerate(texts):
        alone = sketch([word_hashes(text)])
        assert np.array_equal(alone.bands[0], together.bands[row])
        assert np.array_equal(alone.smallest[0], together.smallest[row])


def generated(rows, copies, seed):
    """Rows of 60 random words and `copies` of them with one to three words exchanged; and what each is a copy of."""
    rng = random.Random(seed)  # noqa: S311
    words = [f"w{number}" for number in range(5000)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(rows)]
    origins = rng.sample(range(rows), copies)
    for origin in origins:
        changed = texts[origin].split()
        for place in rng.sample(range(60), rng.randint(1, 3)):
            changed[place] = rng.choice(words)
        texts.append(" ".join(changed))
    return texts, origins


def test_recall_and_precision_on_generated_rows():
    texts, origins = generated(1000, 400, seed=7)
    sketches = Sketches(limit=10_000, seed=0)
    for row, text in enumerate(texts):
        sketches.add(row, text)
    rows, found = sketches.taken(np.ones(len(texts), bool))
    assert rows.tolist() == list(range(len(texts)))
    pairs = {tuple(pair) for pair in similar_pairs(found).tolist()}
    assert all(jaccard(texts[low], texts[high]) >= SIMILAR for low, high in pairs)
    copies = {
        (origin, row) for row, origin in enumerate(origins, 1000) if jaccard(texts[origin], texts[row]) >= SIMILAR
    }
    assert 100 < len(copies) < 300
    assert len(copies & pairs) >= 0.95 * len(copies)


def test_a_crowd_of_similar_rows_costs_few_comparisons_and_is_found_whole():
    rng = random.Random(3)  # noqa: S311
    common = [f"w{number}" for number in range(100)]
    sketches = Sketches(limit=10_000, seed=0)
    for row in range(3000):
        sketches.add(row, " ".join([*common, str(rng.random())]))
    pairs = similar_pairs(sketches.taken(np.ones(3000, bool))[1])
    assert len(pairs) < 20 * 3000
    assert set(pairs.ravel().tolist()) == set(range(3000))


@settings(max_examples=20)
@given(st.integers(0, 3000), st.integers(1, 2000), st.integers(0, 5))
def test_a_sample_is_as_large_as_its_limit_and_repeatable(count, limit, seed):
    def taken():
        sketches = Sketches(limit, seed)
        for row in range(count):
            sketches.add(row, str(row))
        return sketches.taken(np.ones(count, bool))

    rows, found = taken()
    assert len(rows) == len(found.bands) == len(found.smallest) == min(count, limit)
    assert len(set(rows.tolist())) == len(rows)
    assert np.array_equal(rows, taken()[0])
    for row, bands in zip(rows[:20].tolist(), found.bands, strict=False):
        assert np.array_equal(bands, sketch([word_hashes(str(row))]).bands[0])


def test_a_sample_is_uniform():
    taken = np.zeros(400)
    for seed in range(200):
        sketches = Sketches(100, seed)
        for row in range(400):
            sketches.add(row, "")
        taken[sketches.taken(np.ones(400, bool))[0]] += 1
    assert abs(taken[:100].mean() - 50) < 3
    assert abs(taken[-100:].mean() - 50) < 3


def test_a_sampled_audit_says_so():
    audit = Audit(near_limit=10)
    for line in range(25):
        audit.take("train", f"t:{line}", Text(str(line)))
    assert audit.report().notes == ("near duplicates: a sample of 10 of the 25 train rows was compared",)


letters = st.sampled_from("aAbB ")


@given(st.lists(st.tuples(st.sampled_from(["train", "held-out"]), st.text(letters, max_size=3)), max_size=30))
def test_duplicates_are_those_of_brute_force(rows):
    duplicates = Duplicates(near_limit=0, seed=0)
    expected = dict.fromkeys(("duplicates", "duplicates_normalised", "leaked", "leaked_normalised"), 0)
    for line, (part, text) in enumerate(rows):
        duplicates.add(part, f"f:{line + 1}", texts_of(Text(text)))
        normal = " ".join(text.casefold().split())
        earlier = [other for other_part, other in rows[:line] if other_part == part]
        train = [other for other_part, other in rows if other_part == "train" and part == "held-out"]
        for name, others in (("duplicates", earlier), ("leaked", train)):
            if text in others:
                expected[name] += 1
            elif normal in (" ".join(other.casefold().split()) for other in others):
                expected[f"{name}_normalised"] += 1
    found = {one.id: one.count for one in duplicates.findings() if one.id != "other_answers"}
    assert found == {name: count for name, count in expected.items() if count}
