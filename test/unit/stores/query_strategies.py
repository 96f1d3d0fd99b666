"""Hypothesis strategies for documents and queries that meet often: few keys, few values, every operator."""

from typing import Any

from hypothesis import strategies as st

KEYS = ["a", "b", "0", "1"]
PATHS = ["a", "b", "a.b", "a.0", "a.1", "a.0.b", "a.b.0", "a.b.a", "a.0.0"]
BIG = 2**53
NUMBERS: list[int | float] = [-7, -1, 0, 1, 2, 5, 0.0, 1.0, 1.5, -2.5, BIG, BIG + 1, float(BIG), 2**63 - 1, -(2**63)]
TEXTS = ["", "a", "ab", "B", "1", "é", "\U0001f600", 'a"b', "a\nb", "a\\b", "true", "[1]", "null"]

numbers = st.sampled_from(NUMBERS)
texts = st.sampled_from(TEXTS)
scalars = st.one_of(numbers, texts, st.booleans(), st.none())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)

comparisons = st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), scalars)
equalities = st.tuples(st.sampled_from(["$eq", "$ne"]), values)
memberships = st.tuples(st.sampled_from(["$in", "$nin", "$all"]), st.lists(values, max_size=3))
shapes = st.one_of(
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.just("$size"), st.integers(0, 3)),
    st.tuples(
        st.just("$type"),
        st.sampled_from(["double", "string", "object", "array", "bool", "null", "int", "long", "number"]),
    ),
    st.tuples(st.just("$mod"), st.tuples(st.sampled_from([-3, 2, 3]), st.integers(-2, 2)).map(list)),
    st.tuples(st.just("$regex"), st.sampled_from(["a", "^a", "b$", "A", ".b", ""])),
)
simple_operators = st.one_of(comparisons, equalities, memberships, shapes)


def with_options(operators: dict[str, Any], options: str) -> dict[str, Any]:
    return {**operators, "$options": options} if "$regex" in operators else operators


def operator_sets(operators: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    sets = st.lists(operators, min_size=1, max_size=2).map(dict)
    return st.builds(with_options, sets, st.sampled_from(["", "i", "ms", "i"]))


negations = st.tuples(st.just("$not"), operator_sets(simple_operators))
value_sets = operator_sets(simple_operators | negations)
field_queries = st.dictionaries(st.sampled_from(["a", "b", "a.b", "0"]), value_sets | values, min_size=1, max_size=2)
item_matches = st.tuples(st.just("$elemMatch"), value_sets | field_queries)
conditions = st.one_of(values, operator_sets(st.one_of(simple_operators, negations, item_matches)))

fields = st.dictionaries(st.sampled_from(PATHS), conditions, max_size=2)


def logical(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    branches = st.lists(inner, min_size=1, max_size=3)
    return st.builds(lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or", "$nor"]), branches)


queries = st.recursive(fields, logical, max_leaves=4)
# What SQLite narrows by itself: equality with text and integers, on short and long paths.
narrowed_queries = st.dictionaries(st.sampled_from(PATHS), scalars, min_size=1, max_size=2)
