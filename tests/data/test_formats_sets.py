"""Rows in the layouts that well-known data sets are published in, and what is understood of them."""

import json
from dataclasses import replace

import pytest

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Feedback, Message, Preference, PromptCompletion, Skipped, ToolCall
from ftune.data.formats.detect import detect
from ftune.data.row import Row

ASK = Message("user", "Name a river.")
GOOD, BAD = Message("assistant", "The Loire."), Message("assistant", "Paris.")
SYSTEM = Message("system", "Be short.")
RIVER = Conversation((ASK, GOOD))
RIVERS = Preference(Conversation((ASK, GOOD), prompt_turns=1), Conversation((ASK, BAD), prompt_turns=1))

USER = {"role": "user", "content": "Name a river."}
LOIRE = {"role": "assistant", "content": "The Loire."}
PARIS = {"role": "assistant", "content": "Paris."}
TOOL = {"type": "function", "function": {"name": "add"}}
OPTIONS = "\n\nA. Paris\nB. Loire"


def parse(row):
    return detect([Row(row, "rows.jsonl", 1)]).read(row)


def unknown(row):
    with pytest.raises(DataError, match="the layout of this row is not known") as error:
        detect([Row(row, "rows.jsonl", 1)])
    return str(error.value).splitlines()[-1]


CHATS = {
    "Capybara": {"source": "x", "conversation": [{"input": "Name a river.", "output": "The Loire."}]},
    "ms-swift": {"conversation": [{"human": "Name a river.", "assistant": "The Loire."}]},
    "FLAN": {"inputs": "Name a river.", "targets": "The Loire.", "task": "rivers"},
    "PaLM": {"input_text": "Name a river.", "output_text": "The Loire."},
    "Gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": "Name a "}, {"text": "river."}]},
            {"role": "model", "parts": [{"text": "The Loire."}]},
        ]
    },
    "Bedrock": {"messages": [{**turn, "content": [{"text": turn["content"]}]} for turn in (USER, LOIRE)]},
    "Cohere": {
        "messages": [{"role": "User", "message": "Name a river."}, {"role": "Chatbot", "message": "The Loire."}]
    },
    "ShareGPT": {"items": [{"from": "human", "value": "Name a river."}, {"from": "bot", "value": "The Loire."}]},
    "OpenAssistant": {
        "messages": [{"role": "prompter", "text": "Name a river."}, {"role": "ai", "text": "The Loire."}]
    },
}


@pytest.mark.parametrize("name", CHATS)
def test_chats(name):
    assert parse(CHATS[name]) == RIVER


@pytest.mark.parametrize(
    "row",
    [
        {"system": [{"type": "text", "text": "Be short."}], "messages": [USER, LOIRE]},
        {"systemInstruction": {"parts": [{"text": "Be short."}]}, "messages": [USER, LOIRE]},
        {"conversation": [{"system": "Be short.", "input": "Name a river.", "output": "The Loire."}]},
        {"conversation": [{"input": "Name a river.", "output": "The Loire."}], "system": "Be short."},
        {"definition": "Be short.", "inputs": "Name a river.", "targets": "The Loire."},
    ],
)
def test_system_texts_are_not_lost(row):
    read = parse(row)
    if "definition" in row:
        assert read == Conversation((Message("user", "Be short.\n\nName a river."), GOOD))
    else:
        assert read == Conversation((SYSTEM, ASK, GOOD))


def test_a_system_text_beside_a_prompt_and_a_completion():
    chat = {"system": "Be short.", "prompt": [USER], "completion": [LOIRE]}
    assert parse(chat) == Conversation((SYSTEM, ASK, GOOD), prompt_turns=2)
    with pytest.raises(DataError, match=r"has no place for it; make it a chat with 'columns: \{user: prompt"):
        parse({"system": "Be short.", "prompt": "Name a river.", "completion": "The Loire."})
    assert parse({"system": "", "prompt": "a", "completion": "b"}) == PromptCompletion("a", "b")


@pytest.mark.parametrize("question", ["question", "query", "user"])
def test_the_history_stands_before_a_question(question):
    row = {question: "Name a river.", "response": "The Loire.", "history": [["Hi", "Hello."]]}
    assert parse(row) == Conversation((Message("user", "Hi"), Message("assistant", "Hello."), ASK, GOOD))


def test_questions_of_mt_bench_are_all_the_users():
    row = {"question_id": 81, "category": "writing", "turns": ["Write a story.", "Rewrite it."]}
    detected = detect([Row(row, "rows.jsonl", 1)])
    assert detected.reason.startswith("key 'turns': questions without answers, as 'question_id' says; not used")
    assert detected.read(row) == Conversation((Message("user", "Write a story."), Message("user", "Rewrite it.")))


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}]
)
def test_answers_that_are_not_to_be_trained_are_context(mark):
    turns = [USER, {**PARIS, **mark}, USER, {**LOIRE, "weight": 1, "loss": None}]
    assert parse({"messages": turns}) == Conversation((ASK, BAD, ASK, GOOD), prompt_turns=2)
    assert parse({"messages": turns, "system": "Be short."}).prompt_turns == 3
    assert parse({"messages": [{**USER, **mark}, LOIRE]}) == RIVER
    with pytest.raises(DataError, match=r"messages\[3\] is marked as not .* messages\[1\] before"):
        parse({"messages": [USER, LOIRE, USER, {**PARIS, **mark}]})


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"messages": [USER, {**LOIRE, "reasoning_content": "A river."}]}, r"messages\[1\]: 'reasoning_content'"),
        ({"messages": [USER, {**LOIRE, "train_detail": [{"train": False}]}]}, "'train_detail' trains parts"),
        ({"messages": [USER, LOIRE], "images": ["a.jpg"]}, "the row has 'images', and only text can be trained on"),
        ({"conversation": [{"input": "a", "output": "b"}, "c"]}, r"conversation\[1\]: it is the text 'c'; it must"),
        ({"conversation": [{"input": "a", "output": None}]}, r"conversation\[0\]: 'output' is null"),
        (
            {"conversation": [{"input": "a", "output": "b"}, {"input": "a", "output": "b", "system": "c"}]},
            r"conversation\[1\]: it has a system text; only the first",
        ),
        ({"prompt": "a", "answers": [{"answer": "b", "rank": 1}, {"answer": "c"}]}, r"answers\[1\]: 'rank' is null"),
        ({"prompt": "a", "answers": [{"answer": "b", "rank": 1}, 3]}, r"answers\[1\] is the number 3"),
        ({"prompt": '["a", "b"]', "response_a": '["c"]', "response_b": '["d"]', "winner": "a"}, "'prompt' has 2 turns"),
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, "'answer' is the number 2, which names none of"),
        ({"question": "a", "choices": ["1", "2"], "answer": "1"}, "'answer' is the text '1', which could mean two of"),
        ({"question": "a", "choices": ["b", "c"], "answer": "d"}, "'answer' is the text 'd', which names none of"),
        ({"question": "a", "choices": ["b", "c"], "answer": True}, "'answer' is the truth value True; it must"),
        ({"query": "a", "tools": [], "answers": []}, "'tools' is missing or empty"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(row, cause):
    with pytest.raises(DataError, match=cause):
        parse(row)


def test_marks_of_media_that_are_empty_say_nothing():
    turn = {**LOIRE, "reasoning_content": "", "train_detail": None}
    assert parse({"messages": [USER, turn], "images": [], "videos": None}) == RIVER


PREFERENCES = {
    "OpenAI": {"input": {"messages": [USER]}, "preferred_output": [LOIRE], "non_preferred_output": [PARIS]},
    "When2Call": {"messages": [USER], "chosen_response": LOIRE, "rejected_response": PARIS},
    "UltraInteract": {
        "trajectory": [{"from": "user", "value": "Name a river."}],
        "chosen": "The Loire.",
        "rejected": "Paris.",
    },
    "ms-swift": {"messages": [USER, LOIRE], "rejected_response": "Paris."},
    "ms-swift, both whole": {"messages": [USER, LOIRE], "rejected_messages": [USER, PARIS]},
    "ms-swift, texts": {"query": "Name a river.", "response": "The Loire.", "rejected_response": "Paris."},
    "Axolotl": {"question": "Name a river.", "chosen_response": "The Loire.", "rejected_response": "Paris."},
    "Stack Exchange": {"qid": 1, "question": "Name a river.", "response_j": "The Loire.", "response_k": "Paris."},
    "HelpSteer2": {
        "prompt": "Name a river.",
        "response_1": "Paris.",
        "response_2": "The Loire.",
        "preference_strength": 2,
    },
    "HelpSteer3": {"context": [USER], "response1": "The Loire.", "response2": "Paris.", "overall_preference": -1},
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences(name):
    assert parse(PREFERENCES[name]) == RIVERS


def margin(number):
    return Preference(RIVERS.chosen, RIVERS.rejected, number)


@pytest.mark.parametrize(
    ("row", "difference"),
    [
        (
            {
                "prompt": "\n\nHuman: Name a river.\n\nAssistant: ",
                "answers": [{"answer": "Paris.", "rank": 3.0}, {"answer": "The Loire.", "rank": 1.0}],
            },
            2,
        ),
        (
            {
                "instruction": "Name a river.",
                "completions": [
                    {"response": "The Loire.", "overall_score": 7.5},
                    {"response": "x", "overall_score": 6},
                    {"response": "Paris.", "overall_score": 5},
                ],
            },
            2.5,
        ),
        (
            {
                "question": "Name a river.",
                "answers": [{"text": "Paris.", "pm_score": 1}, {"text": "The Loire.", "pm_score": 4}],
            },
            3,
        ),
        (
            {
                "user_input": "Name a river.",
                "responses_and_scores": json.dumps(
                    [{"response": "Paris.", "score": 3}, {"response": "The Loire.", "score": 8}]
                ),
            },
            5,
        ),
        (
            {
                "prompt": '["Name a river."]',
                "response_a": '["Paris."]',
                "response_b": '["The Loire."]',
                "winner_model_a": 0,
                "winner_model_b": 1,
            },
            1,
        ),
        (
            {
                "question": {"full_text": "Name a river."},
                "answer_0": "Paris.",
                "answer_1": "The Loire.",
                "score_0": -0.5,
                "score_1": 0.5,
            },
            1,
        ),
        (
            {
                "prompt": "Name a river.",
                "chosen": "The Loire.",
                "rejected": "Paris.",
                "chosen-rating": 5,
                "rejected-rating": 3,
            },
            2,
        ),
    ],
)
def test_preferences_with_numbers(row, difference):
    assert replace(parse(row), ranking=()) == margin(difference)


def test_answers_that_are_all_equally_good_are_left_out():
    answers = [{"answer": "The Loire.", "rank": 1}, {"answer": "Paris.", "rank": 1}]
    assert parse({"prompt": "Name a river.", "answers": answers}) == Skipped("a tie: no answer is better")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Name a", "input": "", "output": "Paris.", "kto_tag": False},
        {"question": "Name a", "completion": "Paris.", "label": False},
        {"prompt": "Name a", "response": "Paris.", "category": {}, "is_safe": False},
    ],
)
def test_an_answer_that_is_judged_bad_is_not_taken_for_a_good_one(row):
    assert parse(row) == Feedback(Conversation((Message("user", "Name a"), BAD), prompt_turns=1), False)


def test_a_number_beside_an_instruction_is_no_judgement():
    assert parse({"instruction": "Name a river.", "output": "The Loire.", "label": 0}) == RIVER


CHOICES = ["Paris", "Loire"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "choices": CHOICES, "answer": 1, "subject": "rivers"},
        {"question": "Which?", "options": CHOICES, "answer": "B", "answer_index": 1},
        {"question": "Which?", "options": CHOICES, "answer": "Loire"},
        {"question": "Which?", "options": {"A": "Paris", "B": "Loire"}, "answer": "Loire", "answer_idx": "B"},
        {"question_stem": "Which?", "choices": {"text": CHOICES, "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "Which?", "choices": {"text": CHOICES, "label": ["1", "2"]}, "answerKey": "2"},
        {"ctx": "Which?", "endings": repr(CHOICES), "label": "1"},
        {"sentence": "Which?", "option1": "Paris", "option2": "Loire", "answer": "2"},
        {"goal": "Which?", "sol1": "Paris", "sol2": "Loire", "label": 1},
    ],
)
def test_multiple_choice_is_asked_with_letters(row):
    detected = detect([Row(row, "rows.jsonl", 1)])
    assert detected.format.type == "multiple_choice"
    assert detected.read(row) == Conversation((Message("user", f"Which?{OPTIONS}"), Message("assistant", "B. Loire")))
    assert detected.format.choices(row) == ("A. Paris", "B. Loire")


def test_a_number_says_from_where_it_is_counted():
    reasons = [
        detect([Row({"question": "Which?", "choices": CHOICES, "answer": answer}, "x", 1)]).reason
        for answer in (0, "A")
    ]
    assert [reason.endswith(", counted from 0") for reason in reasons] == [True, False]


def test_options_that_have_letters_keep_them():
    row = {"question": "Which?", "options": ["A)Paris", "B)Loire"], "correct": "B"}
    assert parse(row) == Conversation((Message("user", "Which?\n\nA)Paris\nB)Loire"), Message("assistant", "B)Loire")))


@pytest.mark.parametrize("kept_back", [None, "", "-1", -1])
def test_multiple_choice_without_an_answer_is_left_out(kept_back):
    assert parse({"question": "Which?", "choices": CHOICES, "answer": kept_back}) == Skipped(
        "a question without an answer"
    )


@pytest.mark.parametrize("columns", [("answerA", "answerB", "answerC"), ("answer0", "answer1", "answer2", "answer3")])
def test_options_in_columns_are_no_question_of_yes_or_no(columns):
    row = {"context": "Here.", "question": "Which?", **dict(zip(columns, "xyzw", strict=False)), "label": "1"}
    right = "A. x" if columns[0] == "answerA" else "B. y"
    assert parse(row).messages[-1] == Message("assistant", right)


@pytest.mark.parametrize("write", [lambda value: value, json.dumps])
def test_calls_that_answer_a_question(write):
    call = {"name": "add", "arguments": {"a": 1}}
    row = {"query": "Add.", "tools": write([{"name": "add"}]), "answers": write([call])}
    called = Message("assistant", "", (ToolCall("add", {"a": 1}),))
    assert parse(row) == Conversation((Message("user", "Add."), called), (TOOL,))
    assert parse({**row, "answers": write([])}) == Skipped("a question without a call")


def test_functions_of_the_first_openai_api_are_tools():
    assert parse({"messages": [USER, LOIRE], "functions": [{"name": "add"}]}).tools == (TOOL,)


@pytest.mark.parametrize("answer", ["1", "0"])
def test_an_amount_is_no_yes_or_no(answer):
    row = {"question": "How many?", "passage": "There are some.", "answer": answer}
    assert parse(row).messages[-1] == Message("assistant", answer)
    assert parse({**row, "answer": True}).messages[-1] == Message("assistant", "yes")


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter"}, "trees of conversations"),
        ({"translation": {"de": "Hallo", "en": "Hello"}}, "write its languages as columns, such as 'de' and 'en'"),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, r'{prompt: "{sentence1}\n{sentence2}\n{options}"'),
        ({"question": "a", "sentence": "b", "label": 0}, r'{prompt: "{question}\n{sentence}\n{options}"'),
        ({"system": "a", "chat": "USER: b"}, "'columns: {text: chat}'"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "steps with a verdict on each"),
        ({"title": "a", "paragraphs": [{"context": "b", "qas": []}]}, "write a row for each question with 'context'"),
        ({"prompt": "a"}, "a prompt alone has no answer"),
        (
            {"id": "long id of a row", "Question": "a", "distractor": "long wrong", "correct_answer": "b"},
            "{user: Question, assistant: correct_answer}",
        ),
    ],
)
def test_what_is_met_often_and_cannot_be_read_has_its_own_advice(row, advice):
    assert advice in unknown(row)
