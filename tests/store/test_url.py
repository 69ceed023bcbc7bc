"""Tests of Redis URLs, in the forms that other libraries use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.url import URL_FORMS, HostPort, RedisUrl, RedisUrlError, parse_redis_url

SECRET = "s3cr3t-that-nobody-may-see"
OTHER_PATHS = (
    *("redis://h/abc", "redis://h/5x", "redis://h/0/1", "redis://h/-1", "redis://h/0/"),
    *("rediss://h/abc", "redis://h//1", "redis://h/%31", "redis://h/٣", f"redis://h/{SECRET}"),
    *("redis://h/9999999999", "redis+sentinel://h/name/first", "redis+sentinel://h/name/-1"),
)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "redis://h/", "redis://h/15", "redis://h/1?db=1", "redis://[::1]"),
        *("rediss://u:p@h:1/2?ssl_cert_reqs=none", "unix:///run/r.sock?db=1"),
    ],
)
def test_parse_redis_url_of_one_server_keeps_the_url(url: str) -> None:
    """redis-py parses the URL of one server itself."""
    assert parse_redis_url(url) == RedisUrl(kind="server", server_url=url)


@pytest.mark.parametrize(
    ("url", "seeds", "master_name", "server_url"),
    [
        (
            "redis+sentinel://one,two:1,[::1]:2/mymaster",
            (HostPort("one", 26379), HostPort("two", 1), HostPort("::1", 2)),
            "mymaster",
            "redis://master/?",
        ),
        (
            "rediss+sentinel://u:p%40,x@one/my%2Fmaster/3?ssl_ca_certs=%2Fca&client_name=1",
            (HostPort("one", 26379),),
            "my/master",
            "rediss://u:p%40,x@master/3?ssl_ca_certs=%2Fca&client_name=1",
        ),
    ],
)
def test_parse_redis_url_of_sentinels_returns_seeds_and_master(
    url: str, seeds: tuple[HostPort, ...], master_name: str, server_url: str
) -> None:
    """The hosts are Sentinels; login, database, TLS and options belong to the master."""
    expected = RedisUrl(
        kind="sentinel", server_url=server_url, seeds=seeds, master_name=master_name
    )
    assert parse_redis_url(url) == expected


def test_parse_redis_url_with_a_sentinel_password_keeps_both_logins_apart() -> None:
    """Neither server receives the password of the other."""
    redis_url = parse_redis_url(
        "redis+sentinel://:a@h/m?sentinel_username=u&sentinel_password=b%20c"
    )
    assert redis_url.sentinel_login == {"username": "u", "password": "b c"}
    assert redis_url.server_url == "redis://:a@master/?"


def test_parse_redis_url_of_a_cluster_returns_its_nodes() -> None:
    """A Cluster has only one database."""
    redis_url = parse_redis_url("redis+cluster://u:p@one:7000,two/0?client_name=x")
    assert redis_url == RedisUrl(
        kind="cluster",
        server_url="redis://u:p@master/?client_name=x",
        seeds=(HostPort("one", 7000), HostPort("two", 6379)),
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        f"http://:{SECRET}@h",
        "redis://",
        f"redis://:{SECRET}@h:port",
        "redis://h:0",
        "unix://",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel:///name",
        "redis+sentinel://h,/name",
        "redis+sentinel://h:0/name",
        f"redis+sentinel://:{SECRET}@h:port/name",
        "redis://a..b",
        "redis+sentinel://a..b/name",
        "redis+cluster://h/1",
        "redis+cluster://",
        f"redis+cluster://:{SECRET}@[h",
        "sentinel://h/name",
    ],
)
def test_parse_redis_url_of_an_invalid_url_raises_without_quoting_it(url: str) -> None:
    """The URL may hold a password, so the error shows the accepted forms instead."""
    with pytest.raises(ValueError, match=r"^is not a Redis URL: use ") as caught:
        parse_redis_url(url)
    assert URL_FORMS in str(caught.value)
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h?timeout=5", "has an option that is not supported: timeout"),
        (
            "redis://h?decode_responses=true",
            "has an option that is not supported: decode_responses",
        ),
        ("redis+cluster://h?max_connections=2", "has an option that is not supported: max_conn"),
        (f"redis://h?{SECRET}=1", "has an option that is not supported: its option"),
        ("redis://h?ssl_cert_reqs=none", "has the option ssl_cert_reqs, which needs rediss://"),
        ("redis://h?sentinel_password=x", "has an option that is not supported: sentinel_password"),
        ("rediss://h?ssl_cert_reqs=never", "has the option ssl_cert_reqs: give one of none, "),
        ("rediss://h?ssl_check_hostname=maybe", "has the option ssl_check_hostname: give one of"),
        ("redis://h?db=first", "has the option db: give a number"),
        ("redis://h?db=9999999999", "has the option db: give a number"),
        ("redis://h?protocol=4", "has the option protocol: give one of 2, 3"),
        *((url, "has a path that is no database: give a number, such as ") for url in OTHER_PATHS),
        ("redis://h/1?db=2", "has two databases: keep the path or the option db"),
        ("redis+sentinel://h/name/1?db=2", "has two databases: keep the path or the option db"),
    ],
)
def test_part_that_would_break_the_connection_is_refused_by_name(url: str, problem: str) -> None:
    """redis-py would fail later, use another database, or answer in an unexpected form."""
    with pytest.raises(RedisUrlError) as caught:
        parse_redis_url(url)
    assert str(caught.value).startswith(problem)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["none", "NONE", "CERT_NONE", "cert_none"])
def test_spellings_of_other_libraries_are_accepted(value: str) -> None:
    """Celery demands CERT_NONE where redis-py knows none."""
    server_url = parse_redis_url(f"rediss://h/1?ssl_cert_reqs={value}").server_url
    assert server_url == "rediss://h/1?ssl_cert_reqs=none"


@pytest.mark.parametrize("rest", [f"pass/{SECRET}", f"pass#{SECRET}", f"pass?{SECRET}"])
@pytest.mark.parametrize("scheme", ["redis", "rediss+sentinel", "redis+cluster"])
def test_password_that_is_not_percent_encoded_is_named_as_the_reason(
    scheme: str, rest: str
) -> None:
    """The part behind the sign would be read as path, fragment or options."""
    with pytest.raises(RedisUrlError) as caught:
        parse_redis_url(f"{scheme}://:{rest}@h:6379/0")
    assert "percent-encode @, /, ? and # in its password" in str(caught.value)
    assert SECRET not in str(caught.value)


@given(
    st.sampled_from(["redis", "rediss+sentinel", "redis+sentinel", "redis+cluster", "unix", ""]),
    st.text(),
)
def test_parse_redis_url_of_any_text_returns_a_url_or_raises_value_error(
    scheme: str, rest: str
) -> None:
    """No text raises another exception, and a Sentinel or Cluster URL has seeds."""
    try:
        redis_url = parse_redis_url(f"{scheme}://{rest}")
    except ValueError:
        return
    assert redis_url.kind == "server" or redis_url.seeds
