"""Random patterns of parameters, in Java's notation and in Python's, and values for them."""

from random import Random

_HORIZONTAL = r" \t\xa0\u1680\u180e\u2000-\u200a\u202f\u205f\u3000"
ATOMS = {
    **{text: text for text in ("a", "b", "[a-z]", "[^a]", "[^,]", "[0-9A-F]", "x|", "-", " ")},
    "(a|b)": "(?:a|b)",
    "(?:ab)?": "(?:ab)?",
    r"\.": r"\.",
    r"\x61": "a",
    r"\u0061": "a",
    r"\h": f"[{_HORIZONTAL}]",
    r"\H": f"[^{_HORIZONTAL}]",
    r"[^\H]": f"[{_HORIZONTAL}]",
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[A-Za-z0-9_]",
    r"\W": "[^A-Za-z0-9_]",
    r"\s": r"[ \t\n\x0b\f\r]",
    r"\S": r"[^ \t\n\x0b\f\r]",
    r"[\w.-]": "[A-Za-z0-9_.-]",
    ".": r"[^\n\r\x85\u2028\u2029]",
    r"\p{Lower}": "[a-z]",
    r"\p{Alpha}": "[A-Za-z]",
    r"\p{Digit}": "[0-9]",
    r"\Qa.\E": r"a\.",
    "[a-z&&[^b]]": "[ac-z]",
    "[a[x-z]]": "[ax-z]",
    "(?=a)": "(?=a)",
    "(?!a)": "(?!a)",
    r"(?<!a)": "(?<!a)",
    r"\p{Punct}": r"[!-/:-@\[-`{-~]",
}
"""Pieces of patterns in Java's regular expressions, and in Python's."""
QUANTIFIERS = ["", "", "", "?", "*", "+", "{1,2}", "{0}", "+?", "*+", "{2}"]
TEXTS = [
    *("", "a", "b", "x", "z", "A", "_", "0", "5", "-", ".", " ", "\t", "\n", "é", "ab", "aa"),
    *("ba", "a.", "a ", " a", "a\n", "none", "\u3000", "\u2003", "\u180e", "\xa0", "\u1680"),
    *("\u202f", "\u205f", "\u2028", "😀", "a😀", "aaa", "abab", "a-b"),
]
"""Values of parameters, some of which each pattern tells apart."""


def pattern_of(dice: Random) -> tuple[str, str]:
    """Return a pattern in Java's notation, and in Python's."""
    start = dice.choice(["", "^", "^", "(?!x)", "(?=.)", "(?!.*b)"])
    end = dice.choice(["", "$"])
    java, python = start, start.replace(".", ATOMS["."])
    for _ in range(dice.choice([1, 1, 2, 3])):
        atom = dice.choice([*ATOMS])
        often = "" if atom.startswith(("(?", "x|")) else dice.choice(QUANTIFIERS)
        java, python = f"{java}{atom}{often}", f"{python}{ATOMS[atom]}{often}"
    return f"{java}{end}", f"{python}{end}"
