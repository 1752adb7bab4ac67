"""Signs in a text of a broken encoding, of secrets and of people's addresses. Patterns are linear in the text."""

import re
from collections.abc import Iterator
from html.entities import html5

CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
"""C0 and C1, without tab, line ends and form feed."""

MOJIBAKE = re.compile(
    r"Ã[\x80-\xba\xbc-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ‘“•˜š›œžŸ]"  # é, ü, ...; a closing quote may follow a real Ã
    r"|Â[\xa0-\xba\xbc-\xbf]"  # a no-break space, °, §, ...
    r"|â[€\x80]|ðŸ|ï»¿"  # curly quotes and dashes, emoji, a byte-order mark
)
"""The first bytes of UTF-8 characters as Latin-1 or Windows-1252 shows them."""

ENTITY = re.compile(r"&(#[0-9]{2,7};|#x[0-9a-fA-F]{2,6};|[A-Za-z0-9]{2,31};)")

SECRETS = [
    ("AKIA", re.compile(r"AKIA[A-Z0-9]{16}(?![A-Z0-9])")),  # AWS
    ("ASIA", re.compile(r"ASIA[A-Z0-9]{16}(?![A-Z0-9])")),
    ("AIza", re.compile(r"AIza[\w-]{35}")),  # Google
    ("PRIVATE KEY-----", re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY-----")),
    ("hf_", re.compile(r"hf_[A-Za-z0-9]{24,}")),  # Hugging Face
    ("sk-", re.compile(r"(?<![\w-])sk-(?=[\w-]{0,60}[0-9])[\w-]{20,}")),  # OpenAI and those who follow it
    ("gh", re.compile(r"gh[opsur]_[A-Za-z0-9]{30,}")),  # GitHub
    ("github_pat_", re.compile(r"github_pat_\w{20,}")),
    ("xox", re.compile(r"xox[abeoprs]-[\w-]{10,}")),  # Slack
    ("eyJ", re.compile(r"eyJ[\w-]{8,512}\.eyJ[\w-]{8,4096}\.[\w-]{8,}")),  # JSON web tokens
    ("://", re.compile(r"://[^/\s:@]{1,128}:[^/\s:@]{1,128}@\w")),  # user and password in a URL
]
"""What must be in the text at all, which is fast to look for, and the pattern."""

EMAIL = re.compile(r"(?<=[\w+-])@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,}")


def signs_in(text: str) -> Iterator[str]:
    """The ids of rules that this text breaks."""
    if CONTROL.search(text):
        yield "control_characters"
    if not text.isascii():
        if "\ufffd" in text:
            yield "replacement_characters"
        if MOJIBAKE.search(text):
            yield "mojibake"
    if "&" in text and any(name[0] == "#" or name in html5 for name in ENTITY.findall(text)):
        yield "html_entities"
    if has_secret(text):
        yield "secrets"
    if "@" in text and EMAIL.search(text):
        yield "emails"


def has_secret(text: str) -> bool:
    """Whether the text seems to hold a key, a token or a password."""
    return any(hint in text and pattern.search(text) for hint, pattern in SECRETS)
