def run_count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


def run_longest_word(text: str) -> str:
    """Return the longest word of a text, the first of several."""
    return max(text.split(), key=len, default="")
