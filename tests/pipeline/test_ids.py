"""CUIDs: form, order, uniqueness."""

from pipeline.ids import is_cuid, new_cuid, new_cuids


def test_an_id_is_a_cuid_of_25_characters() -> None:
    assert is_cuid(new_cuid())


def test_ids_of_one_batch_are_distinct() -> None:
    assert len(set(new_cuids(50_000))) == 50_000


def test_a_later_id_sorts_behind_an_earlier_one() -> None:
    first = new_cuid()
    while (second := new_cuid())[:9] == first[:9]:
        pass  # the same millisecond
    assert first < second


def test_other_text_is_no_cuid() -> None:
    assert not is_cuid("c123")
    assert not is_cuid("x" + new_cuid()[1:])
