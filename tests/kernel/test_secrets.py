import pytest

from headrace.kernel.secrets import clean, clean_text, looks_secret


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "DB_PASSWORD",
        "apiKey",
        "api-key",
        "aws_secret_access_key",
        "authToken",
        "token",
        "sig",
        "Cookie",
    ],
)
def test_keys_of_secrets(key: str) -> None:
    assert looks_secret(key)


@pytest.mark.parametrize(
    "key", ["rows", "user_session", "tokens", "author", "design", "keys", "monkey", "digest"]
)
def test_ordinary_keys(key: str) -> None:
    assert not looks_secret(key)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("redis://:p@ss@host:6379/0", "redis://:***@host:6379/0"),
        ("see https://joe:pw@host/a?b=1 there", "see https://joe:***@host/a?b=1 there"),
        ("https://host/a?api_key=abc&n=1", "https://host/a?api_key=***&n=1"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: *** ***"),
        ("it sent Bearer abcdefgh1234", "it sent Bearer ***"),
        ("https://host/a?next=b%26token=abc", "https://host/a?next=b%26token=***"),
        ("1postgresql://joe:pw@host", "1postgresql://joe:***@host"),
        ("_9password=abc", "_9password=***"),
        ("rows=5, at 12:30", "rows=5, at 12:30"),
        ("it failed: password=a=b&n=1", "it failed: password=***&n=1"),
        ("password: token=abc", "password: ***"),
        ('["slack+https://chat.example/T0/B0/x1"]', '["slack+https://chat.example/***"]'),
        ("see https://hooks.slack.com/services/T0/x1 there", "see https://hooks.slack.com/*** there"),
    ],
)
def test_texts_are_cleaned(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize("word", ["x" * 1_000_000, "x." * 500_000, "x" * 1_000_000 + "://y"])
def test_a_long_word_is_cleaned_at_once(word: str) -> None:  # in minutes if each of its letters begins a try
    assert clean_text(f"{word} is not valid: password=abc") == f"{word} is not valid: password=***"


def test_the_folder_that_the_shell_is_in_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/joe/shop")
    monkeypatch.setenv("DB_PWD", "hunter2-and-more")
    text = "at /home/joe/shop/headrace.toml: hunter2-and-more"
    assert clean_text(text) == "at /home/joe/shop/headrace.toml: ***"


def test_a_secret_that_begins_with_another_is_masked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_PASSWORD", "opensesame")
    monkeypatch.setenv("SECOND_PASSWORD", "opensesame@dawn")
    assert clean_text("it refused opensesame@dawn") == "it refused ***"


def test_nesting_without_end_is_cut_off() -> None:
    endless: list[object] = []
    endless.append(endless)

    assert str(clean(endless)).count("[") == 32
