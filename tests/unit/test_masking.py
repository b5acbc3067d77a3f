"""Passwords in URLs are shown to nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elsa.parsing import Part, describe, has_password, masked

URLS = (
    "postgresql://me:hunter2@db.example/elsa",
    "postgresql://me:hun/ter2@db.example:5432/elsa",
    "postgresql://me:hunter2@x@db/elsa",
    "postgresql://db.example/elsa?user=me&password=hunter2",
    "s3://bucket?aws_secret_access_key=hunter2&x=1",
    "cannot open postgresql://me:hunter2@db/elsa; check it",
)


@pytest.mark.parametrize("text", URLS)
def test_no_password_of_a_url_is_left(text):
    shown = masked(text)
    assert "hunter" not in shown and "ter2" not in shown
    assert masked(shown) == shown
    assert has_password(text)


@pytest.mark.parametrize(
    "text", ["", "postgresql://db/elsa", "sqlite:////var/lib/elsa.db", "me@example.org", "hf:org/name", "a?b=c"]
)
def test_what_has_no_password_stays(text):
    assert masked(text) == text
    assert not has_password(text)


def test_a_name_alone_is_no_password():
    assert not has_password("https://me@host/x") and not has_password("sqlite:////srv/a@b/elsa.db")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=40))
def test_no_piece_of_any_password_is_left(password):
    shown = masked(f"postgresql://me:{password}@db.example/elsa")
    assert shown == "postgresql://(hidden)@db.example/elsa"


class Settings(Part):
    url: str = ""
    number: int = 0


@pytest.mark.parametrize(
    "raw", [{"ur1": URLS[0]}, {"number": URLS[0]}, {"url": [URLS[0]]}, {"x": {"y": URLS[1]}}, URLS[0]]
)
def test_faults_of_settings_show_no_password(raw):
    with pytest.raises(ValidationError) as fault:
        Settings.model_validate(raw)
    assert "hun" not in describe(fault.value)
