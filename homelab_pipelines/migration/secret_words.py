"""Which values are secrets, judged by their names and by what they look like. In doubt a value is one."""

from __future__ import annotations

import re

_NAME = re.compile(
    r"PASS(WORD|WD|PHRASE)?(_|$|\d)|PASSWORD|PASSWD|PWD$|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|"
    r"ENCRYPTION|SIGNING|(^|_)KEY$|(^|_)AUTH$|(^|_)SALT$|(^|_)DSN$|(^|_)CLAIM$|JWT|COOKIE|LICEN[CS]E_?KEY|WEBHOOK|(^|_)PIN$",
    re.IGNORECASE,
)
# Names that hold one of the words above and are settings all the same.
_SETTING = re.compile(
    r"_FILE$|_PATH$|_LENGTH$|_LIFETIME$|_EXPIR\w*$|_TTL$|_ENABLED?$|^(ALLOW|ENABLE|DISABLE|USE)_", re.I
)
_HARMLESS = re.compile("true|false|yes|no|on|off|[0-9]{1,3}|", re.IGNORECASE)
# user:password@host, PEM, password=…, tokens of well-known services, hashes of htpasswd.
_VALUE = re.compile(
    r"://[^/\s:@]*:[^@\s/]+@|-----BEGIN [A-Z ]*PRIVATE KEY|"
    r"(password|passwd|pwd|secret|token|api_?key)\s*[=:]\s*[^\s\"']|"
    r"\b(ghp|gho|glpat|xox[bp]|sk_live|AGE-SECRET-KEY)[-_A-Za-z0-9]{8,}|\beyJ[\w-]{10,}\.[\w-]+\.|\$(apr1|2[aby]|6|5)\$",
    re.IGNORECASE,
)
_FLAG = re.compile(r"--?[\w.-]*(pass(word|wd|phrase)?|secret|token|api-?key|private-?key)$", re.IGNORECASE)
_FILE = re.compile(
    r"\.(key|pem|p12|pfx|jks|htpasswd|env|secret|kdbx)$|(^|/)(acme\.json|id_[a-z0-9]+|\.env|htpasswd)$", re.I
)


def is_secret(name: str, value: str) -> bool:
    """Whether the variable `name` with this value is to be kept out of what is committed."""
    if looks_secret(value):
        return True
    return bool(_NAME.search(name)) and not _SETTING.search(name) and not _HARMLESS.fullmatch(value)


def looks_secret(text: str) -> bool:
    """Whether a text alone shows that it holds a secret: credentials in a URL, a key, `password=…`."""
    return bool(_VALUE.search(text))


def secret_arguments(words: list[str]) -> set[int]:
    """Which of a command's words hold a secret: what follows `--password`, what looks like one."""
    found = {index for index, word in enumerate(words) if looks_secret(word)}
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if not _FLAG.fullmatch(flag) or word.startswith("$"):
            continue
        if equals and not _HARMLESS.fullmatch(value) and not value.startswith("/"):
            found.add(index)
        elif not equals and index + 1 < len(words) and not words[index + 1].startswith("-"):
            found.add(index + 1)
    return found


def is_secret_file(path: str, content: str) -> bool:
    """Whether a file is a secret by its name or content."""
    return bool(_FILE.search(path)) or looks_secret(content)
