"""Does the image's health check ask what fits the command that the container runs?"""

import socket
import threading

import pytest

from service.cli.healthcheck import command_port, has_remote_connection, is_page_served

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
REDIS = "   0: 030014AC:B1C6 020014AC:18EB 01 00000000:00000000 00:00000000 00000000 10001"
LISTENING = "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 10001"
CLOSING = "   2: 030014AC:B1C7 020014AC:18EB 06 00000000:00000000 03:00001000 00000000 10001"
OURSELVES = "   3: 0100007F:1F90 0100007F:A001 01 00000000:00000000 00:00000000 00000000 10001"


@pytest.mark.parametrize(
    ("words", "environ", "port"),
    [
        ("deployment-enricher serve", {}, 8080),
        ("/sbin/docker-init -- deployment-enricher serve", {"ENRICHER_PORT": "81"}, 81),
        ("deployment-enricher run", {"ENRICHER_PORT": ""}, 8080),
        ("deployment-enricher simulate --host 0.0.0.0 --port 9191", {}, 9191),
        ("deployment-enricher simulate", {}, 9090),
        ("deployment-enricher work", {"ENRICHER_PORT": "81"}, 0),
        ("deployment-enricher work", {"ENRICHER_METRICS_PORT": "9100"}, 9100),
        ("deployment-enricher tail --json", {}, 0),
    ],
)
def test_the_port_is_that_of_the_command(words: str, environ: dict[str, str], port: int) -> None:
    """Behind an init or not; who serves nothing has none."""
    assert command_port(words.split(), environ) == port


@pytest.mark.parametrize(
    ("lines", "is_well"),
    [
        ([HEAD, LISTENING, REDIS], True),
        ([HEAD, LISTENING], False),
        ([HEAD, CLOSING, OURSELVES], False),
        ([HEAD, "", "   0: 030014AC"], False),
        ([], False),
    ],
)
def test_a_worker_is_well_while_it_is_in_touch(lines: list[str], *, is_well: bool) -> None:
    """A connection to another machine that stands; not one to ourselves, nor one that ends."""
    assert has_remote_connection(lines) is is_well


@pytest.mark.parametrize(
    ("answer", "is_well"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
        (b"garbage", False),
    ],
)
def test_only_a_200_is_an_answer(answer: bytes, *, is_well: bool) -> None:
    """Whatever else comes back, or nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        answering = threading.Thread(target=answer_once)
        answering.start()
        assert is_page_served(server.getsockname()[1], "/healthz") is is_well
        answering.join()


def test_nobody_there_is_no_answer() -> None:
    """A port on which nobody listens."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert not is_page_served(silent.getsockname()[1], "/healthz")
