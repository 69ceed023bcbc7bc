"""Tests of the settings: parsing, errors with their fix, and secrets."""

import contextlib
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import (
    TOKEN_VARIABLE,
    Secret,
    Settings,
    SettingsError,
    data_directory,
    list_settings,
    read_settings,
    variable_name,
)

SECRET = "s3cr3t-that-nobody-may-see"
SECRETS = (TOKEN_VARIABLE, "ENRICHER_WEBHOOK_SECRET", "ENRICHER_REDIS_URL")


def settings_error(environ: dict[str, str]) -> str:
    """Return the message with which an environment is refused."""
    with pytest.raises(SettingsError) as caught:
        read_settings(environ)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_settings_of_an_empty_environment_are_the_defaults() -> None:
    """An empty variable counts as unset."""
    assert read_settings({}) == Settings()
    assert read_settings({"ENRICHER_PORT": "", "ENRICHER_NO_SUCH": ""}) == Settings()


def test_every_setting_has_a_description() -> None:
    """Every setting has a variable, a default as text, and a meaning."""
    rows = list_settings()
    assert [name for name, _, _ in rows] == [
        variable_name(field) for field in Settings.__struct_fields__
    ]
    assert all(meaning and not meaning.endswith(".") for _, _, meaning in rows)


@pytest.mark.parametrize(("variable", "default", "_"), list_settings())
def test_described_default_is_accepted_as_a_value(variable: str, default: str, _: str) -> None:
    """The default in the table is a valid value and changes nothing."""
    assert read_settings({variable: default}) == Settings()


def test_every_type_of_value_is_parsed() -> None:
    """Text, numbers, choices and secrets are parsed."""
    settings = read_settings(
        {
            TOKEN_VARIABLE: "api-1",
            "ENRICHER_PORT": "0",
            "ENRICHER_LEASE": "2.5",
            "ENRICHER_DURABILITY": "fsync+replica",
            "ENRICHER_NAMESPACE": "team-a",
            "PATH": "/bin",
        }
    )
    assert settings.access_token.reveal() == "api-1"
    assert (settings.port, settings.lease) == (0, 2.5)
    assert (settings.durability, settings.namespace) == ("fsync+replica", "team-a")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ENRICHER_PROT", "ENRICHER_PORT"),
        ("ENRICHER_REDIS_URI", "ENRICHER_REDIS_URL"),
        ("ENRICHER_REDIS_ULR", "ENRICHER_REDIS_URL"),
        ("ENRICHER_WEBHOOK_SECRETS", "ENRICHER_WEBHOOK_SECRET"),
        ("ENRICHER_WEBHOOK_SECRET_FILES", "ENRICHER_WEBHOOK_SECRET_FILE"),
        ("ENRICHER_PORT_FILE", "ENRICHER_PORT"),
        ("LAUNCHDARKLY_ACCESS_TOKENS", "LAUNCHDARKLY_ACCESS_TOKEN"),
        ("LAUNCHDARKLY_ACCESS_TOKEN_FIL", "LAUNCHDARKLY_ACCESS_TOKEN_FILE"),
    ],
)
def test_unknown_setting_is_refused_with_the_similar_name(name: str, meant: str) -> None:
    """A misspelled variable must not leave the default in force; its value is not shown."""
    assert settings_error({name: SECRET}) == f"there is no setting {name}; did you mean {meant}?"


@pytest.mark.parametrize("name", ["ENRICHER_XYZZY", "ENRICHER_FOO", "ENRICHER_"])
def test_unknown_setting_without_a_similar_name_names_the_command(name: str) -> None:
    """The shared prefix is ignored: `settings` is named instead of another setting."""
    assert settings_error({name: "1"}) == (
        f"there is no setting {name}; `deployment-enricher settings` lists them"
    )


def test_variables_of_other_programs_are_ignored() -> None:
    """Other LAUNCHDARKLY_ variables belong to other programs."""
    assert read_settings({"LAUNCHDARKLY_SDK_KEY": "sdk-1", "ENRICH": "1"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("ENRICHER_PORT", "x", "a whole number from 0 to 65535"),
        ("ENRICHER_PORT", "65536", "a whole number from 0 to 65535"),
        ("ENRICHER_PORT", "-1", "a whole number from 0 to 65535"),
        ("ENRICHER_PORT", "80.5", "a whole number from 0 to 65535"),
        ("ENRICHER_PORT", "true", "a whole number from 0 to 65535"),
        ("ENRICHER_MAX_CALLS_PER_DEPLOYMENT", "0", "a whole number from 1"),
        ("ENRICHER_STREAM_MAX_RECORDS", "-1", "a whole number from 0"),
        ("ENRICHER_RATE_LIMIT_SHARE", "0", "a number from 0.001 to 1"),
        ("ENRICHER_RATE_LIMIT_SHARE", "1.01", "a number from 0.001 to 1"),
        ("ENRICHER_RATE_LIMIT_SHARE", "nan", "a number from 0.001 to 1"),
        ("ENRICHER_LEASE", "soon", "a number from 0.001 to 1000000000"),
        ("ENRICHER_LEASE", "0", "a number from 0.001 to 1000000000"),
        ("ENRICHER_SHUTDOWN_TIMEOUT", "inf", "a number from 0.001 to 1000000000"),
        ("ENRICHER_DURABILITY", "disk", "one of fsync, replica, fsync+replica, server, memory"),
        ("ENRICHER_LOG_FORMAT", "JSON", "one of auto, json, pretty"),
        ("ENRICHER_NAMESPACE", "a b", "1 to 64 letters, digits, '.', '_' or '-'"),
        ("ENRICHER_NAMESPACE", "a}", "1 to 64 letters, digits, '.', '_' or '-'"),
        ("ENRICHER_NAMESPACE", "a\nb", "1 to 64 letters, digits, '.', '_' or '-'"),
        ("ENRICHER_NAMESPACE", "a" * 65, "1 to 64 letters, digits, '.', '_' or '-'"),
        ("ENRICHER_LAUNCHDARKLY_URL", "app.launchdarkly.com", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "ftp://app.launchdarkly.com", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "https://", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "https://host/api/v2", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "https://host?a=b", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "https://host/#x", "https://host only"),
        ("ENRICHER_LAUNCHDARKLY_URL", "https://a..b", "https://host only"),
        ("ENRICHER_HOST", "a..b", "an address such as 127.0.0.1"),
        ("ENRICHER_HOST", "a" * 64, "an address such as 127.0.0.1"),
    ],
)
def test_invalid_value_is_refused_with_the_expected_form(
    variable: str, value: str, wanted: str
) -> None:
    """The message names the variable, its value and the expected form."""
    assert settings_error({variable: value}) == f"{variable} is {value!r}: give {wanted}"


@pytest.mark.parametrize(
    "url", ["https://host/", " https://host", "https://host\r", "https://host//"]
)
def test_harmless_rest_of_an_origin_is_dropped(url: str) -> None:
    """A slash, blanks, and the CR of a file that was written on Windows."""
    assert read_settings({"ENRICHER_LAUNCHDARKLY_URL": url}).launchdarkly_url == "https://host"


def test_origin_with_a_login_is_refused_without_showing_it() -> None:
    """The login could be a token in the wrong place."""
    message = settings_error({"ENRICHER_LAUNCHDARKLY_URL": f"https://user:{SECRET}@host"})
    assert message == "ENRICHER_LAUNCHDARKLY_URL holds a login: give https://host only"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENRICHER_PORT", "tcp://10.0.0.1:8080"),
        ("ENRICHER_SERVICE_HOST", "10.0.0.1"),
        ("ENRICHER_SERVICE_PORT", "8080"),
        ("ENRICHER_SERVICE_PORT_HTTP", "8080"),
        ("ENRICHER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("ENRICHER_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variable_of_a_kubernetes_service_is_named_as_such(name: str, value: str) -> None:
    """Kubernetes sets them in every pod, for a Service that is called `enricher`."""
    message = settings_error({name: value})
    assert message.startswith(f"{name} is not a setting but an address that Kubernetes sets")
    assert "enableServiceLinks: false" in message


@pytest.mark.parametrize(
    "url", ["localhost:6379", f"http://:{SECRET}@host", f"redis://:{SECRET}@host:port", "unix://"]
)
def test_invalid_redis_url_is_refused_without_showing_it(url: str) -> None:
    """A Redis URL may hold a password: the message shows an example instead."""
    message = settings_error({"ENRICHER_REDIS_URL": url})
    assert message.startswith("ENRICHER_REDIS_URL is not a Redis URL: use redis://")
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "rediss://u:p@h:1/0", "redis://[::1]:6379", "unix:///run/redis.sock"),
        *("redis+sentinel://u:p@h:1,i/name/0", "rediss+cluster://h:1,i"),
    ],
)
def test_valid_redis_url_is_accepted(url: str) -> None:
    """Host, socket, user and database number are left to the client."""
    assert read_settings({"ENRICHER_REDIS_URL": url}).redis_url.reveal() == url


@pytest.mark.parametrize("variable", ["ENRICHER_REDIS_URL", "ENRICHER_RECONCILE_SCOPES"])
def test_value_that_is_not_utf8_is_refused(variable: str) -> None:
    """It could be neither sent nor stored."""
    assert settings_error({variable: "redis://:\udcff@h/0"}) == f"{variable} is not UTF-8 text"


@pytest.mark.parametrize(
    "variable", ["ENRICHER_DATA_DIR", "ENRICHER_SOURCES", "ENRICHER_WEBHOOK_SECRET"]
)
def test_path_or_webhook_secret_that_is_not_utf8_is_accepted(variable: str) -> None:
    """The system opens any path, and any bytes can sign."""
    assert read_settings({variable: "/a\udcff"}) != Settings()


def test_data_directory_of_an_unknown_user_is_refused() -> None:
    """The message names the variable, its value and the fix."""
    with pytest.raises(SettingsError) as caught:
        data_directory(Settings(data_dir="~nobody-of-this-name/x"))
    assert str(caught.value) == (
        "ENRICHER_DATA_DIR is '~nobody-of-this-name/x': the home directory for its ~ is unknown;"
        " give an absolute path"
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="pathlib accepts it since Python 3.13")
def test_data_directory_behind_a_symlink_to_itself_is_refused(tmp_path: Path) -> None:
    """The message names the variable and its value."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SettingsError, match=r"ENRICHER_DATA_DIR is '.*/loop/x': a symlink"):
        data_directory(Settings(data_dir=str(tmp_path / "loop" / "x")))


@pytest.mark.parametrize("token", ["api 1", "api-1\n", "api-é", "api-\x00"])
def test_token_unfit_for_a_header_is_refused_without_showing_it(token: str) -> None:
    """Such a token would fail at every call."""
    message = settings_error({TOKEN_VARIABLE: token})
    assert TOKEN_VARIABLE in message
    assert token not in message


@pytest.mark.parametrize("variable", SECRETS)
def test_secret_is_read_from_a_file(variable: str, tmp_path: Path) -> None:
    """A newline at its end and a byte order mark at its start are not part of the secret."""
    value = "redis://host" if variable.endswith("URL") else SECRET
    path = tmp_path / "secret"
    path.write_text(f"{value}\n", encoding="utf-8-sig")
    from_file = read_settings({f"{variable}_FILE": str(path)})
    assert from_file == read_settings({variable: value})
    assert from_file != Settings()


@pytest.mark.parametrize("variable", SECRETS)
def test_secret_set_by_value_and_file_is_refused(variable: str) -> None:
    """It would be unclear which of the two counts."""
    message = settings_error({variable: SECRET, f"{variable}_FILE": "/nowhere"})
    assert message == f"{variable} and {variable}_FILE are both set; keep one of them"


def test_unreadable_secret_file_is_refused(tmp_path: Path) -> None:
    """The message names the problem, but not the path: it may be the secret by mistake."""
    variable = "ENRICHER_WEBHOOK_SECRET_FILE"
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"\xff" + SECRET.encode())
    empty.write_text("\n")
    assert settings_error({variable: SECRET}) == (
        f"{variable} names a file that cannot be read: No such file or directory"
    )
    assert "Is a directory" in settings_error({variable: str(tmp_path)})
    assert "is not UTF-8 text" in settings_error({variable: str(binary)})
    assert settings_error({variable: str(empty)}) == f"{variable} names an empty file"


def test_secret_is_never_shown() -> None:
    """Neither by repr, str and format, nor in settings, nor in an error of another setting."""
    environ = dict.fromkeys(SECRETS[:2], SECRET) | {"ENRICHER_REDIS_URL": f"redis://:{SECRET}@h"}
    settings = read_settings(environ)
    shown = (repr(settings), str(settings), f"{settings.access_token}", f"{settings!r:>9}")
    assert SECRET not in "".join(shown)
    assert "Secret(set)" in repr(settings)
    assert SECRET not in settings_error({**environ, "ENRICHER_PORT": "x"})
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)


def test_secrets_compare_by_value() -> None:
    """Settings compare by value, and an unset secret is falsy."""
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert (bool(Secret("a")), bool(Secret(""))) == (True, False)


@given(st.dictionaries(st.sampled_from([name for name, _, _ in list_settings()]), st.text()))
def test_any_environment_gives_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    """No value of any variable raises another exception."""
    with contextlib.suppress(SettingsError):
        assert isinstance(read_settings(environ), Settings)


def test_unknown_outcome_is_refused() -> None:
    """A misspelled outcome would silently filter every deployment."""
    refusal = settings_error({"ENRICHER_INCLUDE_OUTCOMES": "succeeded success"})
    assert refusal == "ENRICHER_INCLUDE_OUTCOMES is 'succeeded success': give succeeded or failed"
    assert read_settings({"ENRICHER_INCLUDE_OUTCOMES": "failed"}).include_outcomes == "failed"


def test_short_console_token_is_refused() -> None:
    """The console's token has at least 16 characters; the message does not show it."""
    with pytest.raises(SettingsError, match="at least 16 characters") as refused:
        read_settings({"ENRICHER_CONSOLE_TOKEN": "short-one"})
    assert "short-one" not in str(refused.value)


def test_flag_events_without_refreshes_are_refused() -> None:
    """Only refreshes ask for them, so the setting would have no effect."""
    environ = {"ENRICHER_FLAG_EVENTS": "on"}
    assert read_settings(environ).flag_events == "on"
    message = settings_error(environ | {"ENRICHER_REFRESH_AFTER": "never"})
    assert "ENRICHER_REFRESH_AFTER" in message
