"""How a source is shown: addresses of databases without their passwords.

An address that can be read is shown whole but for its secrets. Of one that cannot, nothing after
the scheme is shown: where it is misspelled, nobody knows which part of it was the password.
"""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
LONGEST = 10_000  # characters of an error of others that are kept
ADVICE = (
    "write postgresql://user@host:port/database#table with any @ : / ? # % or blank of a name "
    "percent-encoded (@ is %40), and leave the password to PGPASSWORD or ~/.pgpass"
)

_ENCODED = r"%[0-9A-Fa-f]{2}"
_HOST = rf"(?:\[[0-9A-Fa-f:.%\w]*\]|(?:[\w.~-]|{_ENCODED})*)(?::\d*)?"
_PLAIN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://"
    rf"(?:(?P<user>(?:[^:@/?#%\s\[\]]|{_ENCODED})*)(?P<password>:(?:[^@/?%\s]|{_ENCODED})*)?@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
    r"(?P<path>(?<=(?i:duckdb)://)/[^?#:]*|/(?:[A-Za-z]:)?[^?#@:]*)?"
    r"(?:\?(?P<query>[^#@]*))?"
    r"(?:\#(?P<table>[^@#]*))?"
)
# Query parameters that hold no secret; whatever else stands there may be one.
_OPEN = {
    *("host", "hostaddr", "port", "dbname", "user", "sslmode", "connect_timeout"),
    *("application_name", "client_encoding", "target_session_attrs", "sslrootcert"),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")
# An address that a path has taken a slash from; what stands in its query may be a secret.
_QUERY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?[^?]*\?(?=[^=]*=)")
_DATABASES = re.compile(r"(?i)(jdbc|odbc|postgres\w*|psql|pgsql|pg|mysql|mariadb|mssql|oracle)\b")
_KEYWORD = re.compile(
    r"(?i)(\b\w*(?:passw|passphrase|pwd|secret|token|credential|api_?key)\w*\s*[=:]\s*)"
    r"(?!\*\*\*)(?=\S)"
)
# What looks like an address within a sentence, up to its closing quote (which no letter follows)
# or the next blank.
_START = "[A-Za-z][A-Za-z0-9+.-]+:/"
_QUOTED = re.compile(
    rf"(?<='){_START}(?:[^']|'(?=\w))*(?=')|(?<=\"){_START}(?:[^\"]|\"(?=\w))*(?=\")"
    rf"|\b{_START}\S+"
)
_LOOSE = re.compile(r"""(?<!\w)([\w.-]+):(?![/*\s])[^\s'"]*@""")
_WORD = re.compile(r"\S+")


def hide_password(source: str) -> str:
    """Return the name of a source as it may be shown: a path as it is, an address without secrets.

    What was hidden already stays as it is.
    """
    source = source.strip() if "@" in source or "://" in source else source
    if plain := _PLAIN.fullmatch(source):
        return _show(plain)
    scheme = _SCHEME.match(source)
    if scheme and (scheme[2] or _DATABASES.match(source)):
        return f"{scheme[0]}{HIDDEN}"
    if query := _QUERY.match(source):
        return f"{query[0]}{HIDDEN}"
    if keyword := _KEYWORD.search(source):
        return f"{source[: keyword.end()]}{HIDDEN}"
    is_drive = re.match(r"[A-Za-z]:\\", source) is not None
    if not is_drive and re.match(r"[^:]*:.*@", source, re.DOTALL):
        return f"{source.partition(':')[0]}:{HIDDEN}@{source.rpartition('@')[2]}"
    return source


def hide_passwords(text: str) -> str:
    """Return a sentence in which every address, and every password=..., is without its secrets."""
    if not any(sign in text for sign in ("://", ":/", "@", "=")):
        return text
    text = _QUOTED.sub(lambda found: hide_password(found[0]), text)
    text = _LOOSE.sub(rf"\1:{HIDDEN}@", text)
    return "".join(_hide_values(text))


def hide_within(error: BaseException | None) -> None:
    """Take the secrets out of the texts and file names of an error, and of all that led to it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        waiting += [found.__cause__, found.__context__]
        shown = tuple(map(_hide_part, found.args))
        if shown != found.args:
            found.args = shown
        if isinstance(found, OSError):
            for name in ("filename", "filename2"):  # of which their text is made
                path = getattr(found, name)
                if isinstance(path, str | bytes | os.PathLike):
                    text = os.fsdecode(path)
                    if (shown_path := hide_passwords(hide_password(text))) != text:
                        setattr(found, name, shown_path)


def _hide_part(part: object) -> object:
    return hide_passwords(part[:LONGEST]) if isinstance(part, str) else part


def is_address(text: str) -> bool:
    """Return whether a text that was given for a source is, or was meant for, an address."""
    return "://" in text or hide_password(text) != text


def is_readable(address: str) -> bool:
    """Return whether it is certain which part of an address is the password."""
    plain = _PLAIN.fullmatch(address)
    return plain is not None and address.isprintable()


def split_table(address: str) -> tuple[str, str]:
    """Return an address without its table, and the table, "" where none is named."""
    plain = _PLAIN.fullmatch(address)
    if plain is None:
        place, _, table = address.rpartition("#") if "#" in address else (address, "", "")
        return place, table
    table = plain["table"] or ""
    return address[: plain.start("table") - 1] if plain["table"] is not None else address, table


def hide_from(message: str, address: str) -> str:
    """Return what a program said about an address, without the secrets of that."""
    for secret in sorted(_list_secrets(address), key=len, reverse=True):
        if secret in message:
            if len(secret) < 4:  # short enough to be found by trying what fits
                return HIDDEN
            message = message.replace(secret, HIDDEN)
    return hide_passwords(message)


def _list_secrets(address: str) -> set[str]:
    plain = _PLAIN.fullmatch(address)
    if plain is None:
        return set()
    found = {(plain["password"] or "")[1:]}
    for name, value in _split_query(plain["query"] or ""):
        if name not in _OPEN:
            found.add(value)
    return {text for secret in found for text in (secret, unquote(secret)) if text}


def _show(plain: re.Match[str]) -> str:
    shown = f"{plain['scheme']}://"
    if plain["user"] is not None:
        hidden = f":{HIDDEN}" if plain["password"] else ""
        shown += f"{plain['user']}{hidden}@"
    shown += plain["hosts"] + (plain["path"] or "")
    if plain["query"] is not None:
        shown += "?" + "&".join(
            f"{name}={value}" if name in _OPEN else f"{name}={HIDDEN}" if value else name
            for name, value in _split_query(plain["query"])
        )
    # What was meant for the query may stand behind the table.
    table = "".join(_hide_values(plain["table"] or ""))
    return shown + (f"#{table}" if plain["table"] is not None else "")


def _split_query(query: str) -> Iterator[tuple[str, str]]:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        yield name, value


def _hide_values(text: str) -> Iterator[str]:
    """Yield a text in pieces, with what follows password= hidden."""
    at = 0
    while keyword := _KEYWORD.search(text, at):
        yield text[at : keyword.end()] + HIDDEN
        quote = text[keyword.end()]
        closing = text.find(quote, keyword.end() + 1) if quote in "'\"" else -1
        word = _WORD.match(text, keyword.end())
        assert word is not None
        at = closing + 1 if closing > 0 else word.end()
    yield text[at:]
