"""Is a Redis URL read as those who know the form from elsewhere expect?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.url import URL_FORMS, HostPort, RedisUrl, parse_redis_url

SECRET = "s3cr3t-that-nobody-may-see"


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:1/2?ssl_cert_reqs=none", "unix:///run/r.sock?db=1"]
)
def test_one_server_is_left_to_the_client(url: str) -> None:
    """What redis-py reads by itself is handed on as it is."""
    assert parse_redis_url(url) == RedisUrl(kind="server", server_url=url)


@pytest.mark.parametrize(
    ("url", "places", "service", "plain"),
    [
        (
            "redis+sentinel://one,two:1,[::1]:2/mymaster",
            (HostPort("one", 26379), HostPort("two", 1), HostPort("::1", 2)),
            "mymaster",
            "redis://master/?",
        ),
        (
            "rediss+sentinel://u:p%40,x@one/my%2Fmaster/3?ssl_ca_certs=%2Fca&socket_timeout=1",
            (HostPort("one", 26379),),
            "my/master",
            "rediss://u:p%40,x@master/3?ssl_ca_certs=%2Fca&socket_timeout=1",
        ),
    ],
)
def test_sentinels_are_read(
    url: str, places: tuple[HostPort, ...], service: str, plain: str
) -> None:
    """Hosts are Sentinels; login, database, TLS and options are those of the master."""
    expected = RedisUrl(kind="sentinel", server_url=plain, seeds=places, master_name=service)
    assert parse_redis_url(url) == expected


def test_sentinel_may_have_a_password_of_its_own() -> None:
    """It is not given to the master, nor the master's to Sentinel."""
    address = parse_redis_url("redis+sentinel://:a@h/m?sentinel_username=u&sentinel_password=b%20c")
    assert address.sentinel_login == {"username": "u", "password": "b c"}
    assert address.server_url == "redis://:a@master/?"


def test_nodes_of_a_cluster_are_read() -> None:
    """A Cluster has but one database."""
    address = parse_redis_url("redis+cluster://u:p@one:7000,two/0?client_name=x")
    assert address == RedisUrl(
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
        "redis+sentinel://h/name/first",
        "redis+cluster://h/1",
        "redis+cluster://",
        f"redis+cluster://:{SECRET}@[h",
        "sentinel://h/name",
    ],
)
def test_what_is_none_is_refused_unseen(url: str) -> None:
    """It may hold a password: the sentence shows the forms instead."""
    with pytest.raises(ValueError, match=r"^is no address of a Redis: give ") as caught:
        parse_redis_url(url)
    assert URL_FORMS in str(caught.value)
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)


@given(
    st.sampled_from(["redis", "rediss+sentinel", "redis+sentinel", "redis+cluster", "unix", ""]),
    st.text(),
)
def test_whatever_is_written_it_is_an_address_or_refused(scheme: str, rest: str) -> None:
    """No text ends in another exception, and an address names somebody to ask."""
    try:
        address = parse_redis_url(f"{scheme}://{rest}")
    except ValueError:
        return
    assert address.kind == "server" or address.seeds
