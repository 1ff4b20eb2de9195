"""Rows of instruction sets, in the forms that published sets have, become one form of messages."""

import pytest

from marin.processing.conversations.adapter import SHAREGPT_ROLES, ConversationAdapter

QUESTION = {"role": "user", "content": "How many legs has a spider?"}
ANSWER = {"role": "assistant", "content": "Eight."}


@pytest.mark.parametrize(
    ("adapter", "row"),
    [
        (ConversationAdapter(messages_column="messages"), {"messages": [QUESTION, ANSWER]}),
        (
            ConversationAdapter(
                messages_column="conversations", role_key="from", content_key="value", roles=SHAREGPT_ROLES
            ),
            {
                "conversations": [
                    {"from": "human", "value": QUESTION["content"]},
                    {"from": "gpt", "value": "Eight."},
                ]
            },
        ),
        (
            ConversationAdapter(question_column="instruction", answer_column="response"),
            {"instruction": QUESTION["content"], "response": "Eight."},
        ),
        (
            ConversationAdapter(question_column="q", answer_column="tries", answer_key="text", best_by="passed"),
            {
                "q": QUESTION["content"],
                "tries": [
                    {"text": "Six.", "passed": 0.1},
                    {"text": "Eight.", "passed": 0.9},
                    {"text": "8", "passed": 0.9},
                ],
            },
        ),
        (
            ConversationAdapter(messages_column="messages", answer_column="answer"),
            {"messages": [QUESTION], "answer": "Eight."},
        ),
    ],
    ids=["messages", "from and value", "two columns", "best of several answers", "answer beside the messages"],
)
def test_every_form_gives_the_same_messages(adapter: ConversationAdapter, row: dict):
    assert adapter(row)["messages"] == [QUESTION, ANSWER]


def test_a_system_prompt_comes_first_and_an_empty_one_not_at_all():
    adapter = ConversationAdapter(question_column="q", answer_column="a", system_column="s")
    assert adapter({"q": "?", "a": "!", "s": "Be brief."})["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [message["role"] for message in adapter({"q": "?", "a": "!", "s": " "})["messages"]] == ["user", "assistant"]


def test_an_id_of_its_own_stays_and_else_equal_conversations_have_equal_ids():
    adapter = ConversationAdapter(question_column="q", answer_column="a", metadata_columns=("kind", "absent"))
    assert adapter({"id": 7, "q": "?", "a": "!"})["id"] == "7"
    first, second = adapter({"q": "?", "a": "!", "kind": "x"}), adapter({"q": "?", "a": "!"})
    assert first["id"] == second["id"] != adapter({"q": "?", "a": "."})["id"]
    assert first["metadata"] == {"kind": "x"} and second["metadata"] == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [QUESTION]}, "no answer"),
        ({"messages": []}, "no messages"),
        ({"messages": "hello"}, "no list of objects"),
        ({"other": 1}, "no messages: the fields are other"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "unknown role: number 0 has role 'bot'"),
        ({"messages": [QUESTION, {"role": "assistant", "content": " "}]}, "empty message"),
        ({"messages": [QUESTION, {"role": "assistant", "content": 3}]}, "no text: the assistant's is int"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "\ud800"}]}, "lone surrogate"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(row: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        ConversationAdapter(messages_column="messages")(row)


def test_an_adapter_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="give one of them"):
        ConversationAdapter()
    with pytest.raises(ValueError, match="answer_column too"):
        ConversationAdapter(question_column="q")
    with pytest.raises(ValueError, match="answer_key too"):
        ConversationAdapter(question_column="q", answer_column="a", best_by="score")
