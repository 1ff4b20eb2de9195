"""What every signal means, in one line each: the words of docs/reference/filters.md.

The plain Python in `marin.processing.kernels` is the exact form. Ratios of nothing to nothing are 0.
"""

MEANINGS: dict[str, str] = {
    "text.num_bytes": "bytes of the text in UTF-8",
    "text.num_chars": "characters (code points)",
    "text.num_words": "words",
    "text.num_lines": "lines, as `str.splitlines` finds them",
    "gopher.num_words": "words that are more than punctuation",
    "gopher.mean_word_length": "mean characters of these words",
    "gopher.hash_ratio": "`#` / words",
    "gopher.ellipsis_ratio": "(`...` + `…`) / words",
    "gopher.bullet_line_ratio": "lines that begin with `•` or `-` / lines",
    "gopher.ellipsis_line_ratio": "lines that end in `...` or `…` / lines",
    "gopher.alpha_word_ratio": "words with a letter / words",
    "gopher.num_stop_words": "different stop words that occur, letter for letter",
    "gopher.num_stop_word_occurrences": "stop words, each as often as it occurs",
    "repetition.duplicate_line_ratio": "lines (between newlines) equal to one before / lines",
    "repetition.duplicate_paragraph_ratio": "paragraphs (between 2 or more newlines) equal to one before / paragraphs",
    "repetition.duplicate_line_char_ratio": "characters of lines equal to one before / characters",
    "repetition.duplicate_paragraph_char_ratio": "characters of paragraphs equal to one before / characters",
    **{
        f"repetition.top_{n}gram_char_ratio": f"characters of the most frequent {n} words in a row, with the spaces "
        "between, times how often they occur / characters"
        for n in (2, 3, 4)
    },
    **{
        f"repetition.duplicate_{n}gram_char_ratio": f"characters of {n} words in a row that occurred before / "
        "characters; behind such ones the search goes on"
        for n in range(5, 11)
    },
    "fineweb.terminal_line_ratio": "lines that end with a character that ends sentences / lines that are not blank",
    "fineweb.short_line_ratio": "lines of at most 30 characters / lines that are not blank",
    "fineweb.duplicate_line_char_ratio": "characters of lines equal to one before / characters that are no newline",
    "fineweb.newline_word_ratio": "newlines / words",
    "c4.num_paragraphs": "lines of at least 200 characters",
    "c4.num_lines": "lines before the edit",
    "c4.num_kept_lines": "lines after it",
    "c4.num_lines_long_word": "lines dropped for a word of more than `max_word_chars` characters",
    "c4.num_lines_no_terminal": "then for an end that is none of `. ? ! \" '`, or is `...`",
    "c4.num_lines_few_words": "then for fewer than `min_words_per_line` words",
    "c4.num_lines_javascript": "then for the word javascript",
    "c4.num_lines_policy": "then for a phrase like `privacy policy`, `use cookies`",
    "c4.num_sentences": "sentences in the lines that stay",
    "c4.num_lorem_ipsum": "lines with `lorem ipsum`, among those not dropped for their words or end",
    "c4.num_curly_brackets": "lines with `{`, among those not dropped so far",
    "dclm.num_lines": "lines before the edit",
    "dclm.num_kept_lines": "lines after it",
    "dclm.num_lines_uppercase": "lines dropped for capitals / characters > `max_uppercase_ratio`",
    "dclm.num_lines_numeric": "then for digits / characters > `max_digit_ratio`",
    "dclm.num_lines_counter": "then for being a counter: `1.2k likes`, `34 comments`",
    "dclm.num_lines_few_words": "then for fewer than `min_words_per_line` words; empty lines stay",
    "dclm.num_substrings": "`items in cart`, `Read more...` at the end, `Sign-in` at the beginning, taken out of lines "
    "of at most 10 words",
    "dclm.num_words_before": "words before the edit",
    "dclm.num_words_after": "words after it",
    "dclm.removed_word_ratio": "(words before - words after) / words before",
    "bad_words.num_found": "1 where an entry of the list occurs, else 0",
    "bad_words.lot": "a number in [0, 1) that depends on the id alone",
    "url.num_missing": "1 where there is no address, else 0",
    "url.num_domains": "listed domains that the host is, or is below",
    "url.num_urls": "1 where the address is listed, else 0",
    "url.num_words": "listed words in the address",
    "url.num_soft_words": "words of the second list in the address",
    "url.num_substrings": "listed strings in the letters and digits of the address",
    "compression.lz4": "bytes of an LZ4 frame of the text / bytes of the text",
    "compression.zstd": "bytes of a zstd frame of the text / bytes of the text",
    "compression.zlib": "bytes of a zlib stream of the text / bytes of the text",
    "pii.num_emails": "e-mail addresses replaced",
    "pii.num_ip_addresses": "public IP addresses replaced",
    "pii.num_phone_numbers": "telephone numbers replaced, where that is asked for",
    "language": "code of the language, written by language identification",
    "language_score": "its probability",
}
