"""What an installation brings is permissive, or copyleft for its own files alone; the page says the same."""

import pytest

from tests.licences import BEGIN, BY_FILE, END, PAGE, PERMISSIVE, licence_of, needed_by, pinned, table, terms_of

LINES = table().splitlines()
ROWS = [line.split(" | ") for line in LINES[2:]]


def test_no_licence_asks_for_more_than_its_notice() -> None:
    terms = {row[0].removeprefix("| "): terms_of(row[1]) for row in ROWS}
    assert {name: found for name, found in terms.items() if not found <= PERMISSIVE | BY_FILE} == {}
    assert {name for name, found in terms.items() if found & BY_FILE} <= {"certifi", "hypothesis", "pathspec", "tqdm"}


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip().splitlines()
    # another system may lack a package; what it has is as the page says
    assert [line for line in LINES if line not in shown] == []
    assert {line.split(" | ")[0].removeprefix("| ") for line in shown[2:]} == set(pinned())


def test_what_is_needed_is_found_at_every_depth() -> None:
    needed = needed_by()
    assert (needed["pillow"], needed["starlette"], needed["bitsandbytes"]) == ("", "serve", "qlora")
    assert needed["antlr4-python3-runtime"] == "" and needed["ruff"] == "dev" and "deepspeed" not in needed


def test_a_package_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from email.message import Message

    monkeypatch.setattr("tests.licences.metadata.metadata", lambda name: Message())
    with pytest.raises(LookupError, match="x says nothing"):
        licence_of("x")
    assert terms_of("MIT AND (PSF-2.0 OR GPL-3.0-only)") == {"MIT", "PSF-2.0", "GPL-3.0-only"}
