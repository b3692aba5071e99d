"""Tokenising: what becomes a token, what is unknown, and what is cached."""

from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from lightning_transfer.data import tokenizer as tokenizer_module
from lightning_transfer.data.tokenizer import (
    PADDING_ID,
    UNKNOWN_ID,
    TokenizerKind,
    cached_documents,
    cached_tokenizer,
    join,
    readable,
    tokenize,
    train_tokenizer,
)

TEXTS = ["I don't like it.<br /><br />Not at all!", "Great, great film: naïve but great \N{GRINNING FACE}", "it is not"]


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.id_to_token(token) for token in tokenize(tokenizer, [text]).token_ids.tolist()]


def test_words_are_lower_case_with_their_apostrophe_and_signs_stand_alone() -> None:
    words = train_tokenizer(TEXTS, "words", 1000)
    assert tokens(words, "DON'T like it!!<br />Naïve?") == ["don't", "like", "it", "!", "!", "naïve", "<unk>"]


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    words = train_tokenizer(TEXTS, "words", 1000)
    assert tokens(words, "nai\N{COMBINING DIAERESIS}ve") == ["naïve"]


def test_emoji_seen_in_training_is_a_token_and_another_is_unknown() -> None:
    words = train_tokenizer(TEXTS, "words", 1000)
    assert tokens(words, "\N{GRINNING FACE}\N{PILE OF POO}") == ["\N{GRINNING FACE}", "<unk>"]


def test_vocabulary_keeps_the_most_frequent_words_within_its_size() -> None:
    words = train_tokenizer(TEXTS, "words", 4)
    assert words.get_vocab_size() == 4
    assert words.get_vocab()["<pad>"] == PADDING_ID
    assert words.get_vocab()["<unk>"] == UNKNOWN_ID
    assert tokens(words, "great film") == ["great", "<unk>"]


@pytest.mark.parametrize("kind", ["words", "byte_level_bpe"])
def test_names_of_special_tokens_in_a_text_are_ordinary_text(kind: TokenizerKind) -> None:
    tokenizer = train_tokenizer([*TEXTS, "< pad > unk"], kind, 300)
    for learned in (tokenizer, Tokenizer.from_str(tokenizer.to_str())):
        ids = tokenize(learned, ["<pad> great <unk>"]).token_ids.tolist()
        assert not {PADDING_ID, UNKNOWN_ID} & {*ids}


def test_learning_again_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, "words", 100).to_str() == train_tokenizer(TEXTS, "words", 100).to_str()


def test_byte_level_pieces_spell_any_text_without_an_unknown_token() -> None:
    pieces = train_tokenizer(TEXTS, "byte_level_bpe", 300)
    text = "\N{PILE OF POO} Großartig 日本語"
    ids = tokenize(pieces, [text]).token_ids
    assert UNKNOWN_ID not in ids
    spelled = "".join(pieces.id_to_token(token) for token in ids.tolist())
    assert ByteLevel().decode([spelled]).strip() == text


@pytest.mark.parametrize("kind", ["words", "byte_level_bpe"])
@pytest.mark.parametrize("text", ["", "   \n\t", "<br />", None])
def test_document_without_tokens_is_one_unknown_token(kind: TokenizerKind, text: str | None) -> None:
    documents = tokenize(train_tokenizer(TEXTS, kind, 300), ["it", text, "not"])  # type: ignore[list-item]
    assert documents.lengths[1] == 1
    assert documents.token_ids[documents.offsets[1]] == UNKNOWN_ID


def test_lone_surrogates_are_replaced_rather_than_refused() -> None:
    words = train_tokenizer([*TEXTS, "bad \udce9 byte"], "words", 1000)
    assert tokens(words, "bad \udcff byte") == ["bad", "?", "byte"]


def test_documents_are_found_at_their_offsets_over_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "_CHUNK", 4)
    words = train_tokenizer(TEXTS, "words", 1000)
    texts = ["it " * (index % 5) + "not" for index in range(9)]  # the last one is a chunk by itself
    documents = tokenize(words, iter(texts))
    assert documents.token_ids.dtype == np.int32
    assert documents.lengths.tolist() == [index % 5 + 1 for index in range(9)]
    first = documents.token_ids[documents.offsets[7] : documents.offsets[8]]
    assert [words.id_to_token(token) for token in first.tolist()] == ["it", "it", "not"]


def test_document_of_50000_tokens_is_kept_whole() -> None:
    words = train_tokenizer(TEXTS, "words", 1000)
    assert tokenize(words, ["it " * 50_000]).lengths.tolist() == [50_000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我喜欢iPhone手机", ["我", "喜", "欢", "iphone", "手", "机"]),
        ("コーヒーが好き", ["コ", "ー", "ヒ", "ー", "が", "好", "き"]),
        ("กินข้าวที่นี่", ["กิ", "น", "ข้", "า", "ว", "ที่", "นี่"]),
        ("ພາສາ ខ្មែរ", ["ພ", "າ", "ສ", "າ", "ខ្", "មែ", "រ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("it's 3rd 中's", ["it's", "3rd", "中", "'", "s"]),
    ],
)
def test_scripts_without_spaces_give_a_token_for_each_character_with_its_marks(text: str, expected: list[str]) -> None:
    words = train_tokenizer([text], "words", 1000)
    assert tokens(words, text) == expected


def test_texts_of_several_columns_are_joined_row_by_row_with_a_separator_between_them() -> None:
    words = train_tokenizer(["a b c d e f"], "words", 1000)
    columns = [["a b", "c", ""], ["d", "e f a", "b"], ["f", "d", "c c"]]
    joined = join([tokenize(words, column) for column in columns])
    parts = np.split(joined.token_ids, joined.offsets[1:-1])
    read = [" ".join(readable(words, token) for token in part.tolist()) for part in parts]
    assert read == ["a b <sep> d <sep> f", "c <sep> e f a <sep> d", "<unk> <sep> b <sep> c c"]


def test_no_text_at_all_gives_no_document() -> None:
    assert tokenize(train_tokenizer(TEXTS, "words", 1000), []).lengths.tolist() == []


def test_second_call_reads_the_cache_and_other_settings_do_not() -> None:
    def unreadable() -> Iterator[str]:
        yield from ()
        raise AssertionError("the texts were read again")

    learned = cached_tokenizer(TEXTS, "some texts", "words", 50)
    assert cached_tokenizer(unreadable(), "some texts", "words", 50) == learned
    with pytest.raises(AssertionError):
        cached_tokenizer(unreadable(), "some texts", "words", 49)
    with pytest.raises(AssertionError):
        cached_tokenizer(unreadable(), "some texts", "byte_level_bpe", 50)
    tokenizer = Tokenizer.from_str(learned)
    documents = cached_documents(tokenizer, [TEXTS], "some texts", 3)
    again = cached_documents(tokenizer, [unreadable()], "some texts", 3)
    assert np.array_equal(documents.token_ids, again.token_ids)
    other = train_tokenizer(TEXTS, "words", 10)
    assert (cached_documents(other, [TEXTS], "some texts", 3).token_ids == UNKNOWN_ID).sum() > 0
