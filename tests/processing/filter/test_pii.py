"""E-mail and public IP addresses are masked, nothing else is, and what was masked is counted."""

import json
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.filter.pii import MaskPii, PiiMask
from marin.processing.kernels.address_marks import EMAIL, IP4, IP6, address_marks, address_marks_reference
from marin.processing.kernels.arrow_text import text_buffer

[OPERATION] = MaskPii().operations()
assert isinstance(OPERATION, PiiMask)


def masked(text: str) -> tuple[str, int, int]:
    return OPERATION.mask(text, EMAIL | IP4 | IP6)[:3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann.lee+x@mail.company.org.", "Write to email@example.com."),
        (
            "'ann@a.co','bob@b.co','eve@c.co'",
            "'email@example.com','firstname.lastname@example.org','email@example.com'",
        ),
        ("a@b no domain, @name, a @ b.org", None),
        ("git@host:repo", None),
        ("from 8.8.8.8 and 8.8.4.4:53.", "from 192.0.2.1 and 198.51.100.1:53."),
        ("local 192.168.1.7, 10.0.0.1, 127.0.0.1, 192.0.2.9", None),
        ("version 8.8.8.8.1 and 18.8.8.8.8, 999.8.8.8, 8.8.8", None),
        ("at 2a00:1450:4001:82a::200e now", "at 2001:db8::1 now"),
        ("std::vector 2001:db8::7 ::1 fe80::1 12:30:45 2024:10:11", None),
    ],
)
def test_addresses_are_masked_and_others_stay(text: str, expected: str | None):
    found, num_emails, num_addresses = masked(text)
    assert found == (text if expected is None else expected)
    assert (num_emails + num_addresses == 0) == (expected is None)


ADDRESSES = st.lists(
    st.sampled_from(
        ["a@b.co", "8.8.8.8", "8.8.8", ".8.8", "2a00:1450::1", "@", ".", ":", "1", "23ab", "é", " ", "x", "\n"]
    ),
    max_size=12,
).map("".join)


@given(st.lists(st.text(alphabet="ab.@1278:-é \n", max_size=30) | ADDRESSES, min_size=1, max_size=5))
def test_texts_without_marks_have_nothing_to_mask_and_marks_are_those_of_the_plain_form(texts: list[str]):
    found = address_marks(*text_buffer(pa.array(texts, pa.string()))).tolist()
    assert found == [address_marks_reference(text) for text in texts]
    by_marks = [OPERATION.mask(text, marks)[:3] for text, marks in zip(texts, found, strict=True)]
    assert by_marks == list(map(masked, texts))
    batch = pa.record_batch({"id": [str(row) for row in range(len(texts))], "text": pa.array(texts, pa.string())})
    assert OPERATION(batch).column("text").to_pylist() == [masked(text)[0] for text in texts]


@given(st.text(alphabet="ab.@1278:-é \n", max_size=80))
def test_a_masked_text_has_nothing_left_to_mask_but_its_replacements(text: str):
    once, _, _ = masked(text)
    again, _, _ = masked(once)
    assert masked(text) == masked(text)
    known = {*MaskPii().email_replacements}
    assert [word for word in again.split() if "@" in word and not any(k in word for k in known)] == (
        [word for word in once.split() if "@" in word and not any(k in word for k in known)]
    )


@pytest.mark.parametrize("text", ["a" * 300_000, "a." * 150_000 + "@", "@" * 300_000, "1" * 300_000, "1." * 150_000])
def test_no_text_takes_long(text: str):
    started = time.process_time()
    masked(text)
    assert time.process_time() - started < 5


def test_counts_are_in_columns_and_in_the_metadata_of_masked_texts():
    batch = pa.record_batch(
        {
            "id": ["a", "b", "c"],
            "text": ["nothing", "x@y.org x@y.org 8.8.8.8", "1.1.1.1"],
            "metadata": ['{"url": "u"}', '{"url": "é"}', None],
        }
    )
    rows = OPERATION(batch).to_pylist()
    assert [(row["pii.num_emails"], row["pii.num_ip_addresses"]) for row in rows] == [(0, 0), (2, 1), (0, 1)]
    assert rows[0]["metadata"] == '{"url": "u"}'
    assert json.loads(rows[1]["metadata"]) == {"url": "é", "pii": {"emails": 2, "ip_addresses": 1}}
    assert json.loads(rows[2]["metadata"]) == {"pii": {"emails": 0, "ip_addresses": 1}}


def test_what_is_masked_can_be_chosen():
    [emails] = MaskPii(ip_addresses=False, email_replacements=("<email>",)).operations()
    assert isinstance(emails, PiiMask)
    assert emails.mask("a@b.org 8.8.8.8", EMAIL | IP4) == ("<email> 8.8.8.8", 1, 0, 0)
    with pytest.raises(ValueError, match="email_replacements is empty"):
        MaskPii(email_replacements=())


def phones_masked(*texts: str) -> list[str]:
    [mask] = MaskPii(phone_numbers=True, phone_replacements=("<phone>",)).operations()
    return mask(pa.record_batch({"id": [str(i) for i in range(len(texts))], "text": texts})).column("text").to_pylist()


@pytest.mark.parametrize(
    "number",
    [
        *("+49 30 1234567", "+442079460123", "+33 1 23 45 67 89", "+41-44-668-18-00", "+1 (415) 200-3456"),
        *("(415) 200-3456", "415-200-3456", "415.200.3456", "1-415-200-3456", "+7 (495) 123-45-67"),
    ],
)
def test_telephone_numbers_are_masked_where_that_is_asked_for(number: str):
    text = f"Call {number}, or {number}."
    assert phones_masked(text, f"{number}", "none") == ["Call <phone>, or <phone>.", "<phone>", "none"]
    assert masked(text) == (text, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("4152003456", "ISBN 978-3-16-148410-0", "2024-10-11", "x+123456789", "a +1000000 b", "115-200-3456"),
        *("415-100-3456", "5-415-200-3456-1", "ABC-415-200-3456x", "202-555-0123", "+1 202 555 0199"),
        "+1 115 200 3456",
        *("+12", "1.415.200.3456.7", "3.14159265358979", "0.415-200-34567"),
    ],
)
def test_other_numbers_and_those_of_fiction_stay(text: str):
    assert phones_masked(f"{text} is it", text) == [f"{text} is it", text]


@pytest.mark.parametrize("text", ["+1" * 100_000, "1-" * 100_000, "(415) " * 50_000, "+1 1" * 60_000, "9" * 300_000])
def test_looking_for_telephone_numbers_takes_no_time(text: str):
    started = time.process_time()
    phones_masked(text)
    assert time.process_time() - started < 5


def test_telephone_numbers_are_counted_and_their_replacements_are_nobodys():
    [mask] = MaskPii(phone_numbers=True).operations()
    batch = pa.record_batch({"id": ["a"], "text": ["415-200-3456 and +49 30 1234567 and x@y.org"], "metadata": ["{}"]})
    [row] = mask(batch).to_pylist()
    assert row["text"] == "202-555-0100 and 202-555-0101 and email@example.com"
    assert (row["pii.num_phone_numbers"], row["pii.num_emails"]) == (2, 1)
    assert json.loads(row["metadata"])["pii"] == {"emails": 1, "ip_addresses": 0, "phone_numbers": 2}
    again = mask(pa.record_batch({"id": ["a"], "text": [row["text"]]})).column("pii.num_phone_numbers")
    assert again.to_pylist() == [0]
