"""Where the driver, a relay and the drop-in's reservation server listen, and which exceptions a name from elsewhere may choose."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

import psutil
import pytest

from tfos_fast import errors
from tfos_fast.channel.protocol import messages as channel_messages
from tfos_fast.channel.protocol.failures import to_exception
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.coordinator.endpoint import Entrance
from tfos_fast.cluster.driver.rendezvous import _listen, front
from tfos_fast.cluster.host.addresses import listen_at, numeric
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import exception_of, job_exception
from tfos_fast.compat import reservation
from tfos_fast.errors import PortUnavailable, SettingRefused

NOBODYS = "192.0.2.1"  # for documents: no host has it


class Settings:
    """What is asked of an engine here."""

    def __init__(self, bind: str, advertise: str) -> None:
        self._front = bind, advertise

    def front(self) -> tuple[str, str]:
        return self._front


def listens_at(port: int) -> set[str]:
    return {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}


def port_of(keys: Any) -> int:
    return int(keys.endpoint.rpartition(":")[2])


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::", "0.0.0.0"), ("[::]", "0.0.0.0"),
        (NOBODYS, NOBODYS), ("no.such.host.invalid", ""), ("a..b", ""), ("x" * 80, ""),
    ],
)  # fmt: skip
def test_a_name_as_an_address(name: str, address: str):
    assert numeric(name, "spark.driver.bindAddress") == address


@pytest.mark.parametrize("name", ["::1", "[::1]", "fe80::1", "2001:db8::1", "[2001:db8::1]"])
def test_ipv6_is_refused_by_the_name_of_its_setting(name: str):
    with pytest.raises(SettingRefused, match=r"spark\.driver\.bindAddress is '.*IPv6 addresses only.*server_host"):
        numeric(name, "spark.driver.bindAddress")
    with pytest.raises(SettingRefused, match=r"spark\.driver\.bindAddress"):
        _listen(Settings(name, "127.0.0.1"), None, (0,))  # type: ignore[arg-type]
    with pytest.raises(SettingRefused, match=r"spark\.driver\.host"):
        _listen(Settings("127.0.0.1", name), None, (0,))  # type: ignore[arg-type]
    with pytest.raises(SettingRefused, match="server_host"):
        _listen(Settings("127.0.0.1", "127.0.0.1"), name, (0,))  # type: ignore[arg-type]
    with pytest.raises(SettingRefused, match="the address of the driver"):
        reservation.Server(1).start(front=(name, name))


@pytest.mark.parametrize(
    ("bind", "advertise", "host", "where"),
    [
        ("127.0.0.1", "127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.2", "127.0.0.1", None, "127.0.0.2"),
        ("0.0.0.0", "localhost", None, "0.0.0.0"),
        ("::1", "::1", "127.0.0.3", "127.0.0.3"),  # the way out that the error names
        (NOBODYS, NOBODYS, None, "0.0.0.0"),
        ("no.such.host.invalid", "no.such.host.invalid", None, "0.0.0.0"),
    ],
)
def test_the_coordinator_listens_at_its_setting(bind: str, advertise: str, host: str | None, where: str, caplog: Any):
    with caplog.at_level(logging.WARNING):
        coordinator = _listen(Settings(bind, advertise), host, (0,))  # type: ignore[arg-type]
    try:
        assert listens_at(port_of(coordinator.keys)) == {where}
    finally:
        coordinator.close()
    assert ("listens at all" in caplog.text) == (bind in (NOBODYS, "no.such.host.invalid"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOBUFS, errno.EINVAL])
def test_no_other_error_opens_all_addresses(number: int):
    tried = []

    def listen(address: str) -> None:
        tried.append(address)
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        listen_at("127.0.0.1", "spark.driver.host", listen)
    assert tried == ["127.0.0.1"]


def test_a_port_that_is_taken_is_no_reason_to_listen_elsewhere():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable):
            listen_at("127.0.0.1", "spark.driver.host", lambda address: Entrance(address, address, [port]))
        with pytest.raises(PortUnavailable):
            listen_at("127.0.0.1", "spark.driver.host", lambda address: Coordinator(address, address, [port]))


@pytest.mark.parametrize(
    ("bind", "told", "where"),
    [("127.0.0.1", "", "127.0.0.1"), ("127.0.0.2", "", "127.0.0.2"), ("127.0.0.1", "127.0.0.4", "127.0.0.4")],
)
def test_the_reservation_server_listens_where_the_coordinator_does(bind: str, told: str, where: str, monkeypatch: Any):
    """It listened at every address of the host, also with local[N]."""
    monkeypatch.setenv("TFOS_SERVER_HOST", told)
    server = reservation.Server(1)
    address = server.start(front=front(Settings(bind, bind), told or None))  # type: ignore[arg-type]
    try:
        assert listens_at(address[1]) == {where}
        assert address[0] == where
        client = reservation.Client(address)
        assert client.register({"a": 1}) == "OK"
        client.close()
    finally:
        server.stop()


def test_a_reservation_server_by_itself_listens_at_this_hosts_address(monkeypatch: Any):
    monkeypatch.delenv("TFOS_SERVER_HOST", raising=False)
    server = reservation.Server(1)
    host, port = server.start()
    try:
        assert listens_at(port) == {numeric(host, "")}
    finally:
        server.stop()


# ---- names of errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["annotations", "Any", "TYPE_CHECKING", "__name__", "__builtins__", "Exception", "named", "NAMED", "", "x.y", "NodeLost "],
)
def test_a_name_from_elsewhere_finds_exceptions_of_ours_only(name: str):
    """``annotations``, a name in every module, gave a TypeError: what is there was called."""
    assert errors.named(name, errors.ClusterError) is errors.ClusterError
    failed = exception_of(m.Failure(name, "what happened", "worker:0", "h"))
    assert type(failed) is errors.NodeFailed
    assert "what happened" in str(failed)
    assert type(to_exception(channel_messages.Refused(name, "why"))) is errors.ChannelError
    if name.isidentifier():
        found = job_exception(Exception(f"tfos_fast.errors.{name}: the text\n\n"))
        assert type(found) is errors.ClusterError
        assert str(found) == "the text"


def test_every_exception_of_ours_is_made_of_its_name_and_a_text():
    assert len(errors.NAMED) > 30
    for name, kind in errors.NAMED.items():
        assert type(job_exception(Exception(f"tfos_fast.errors.{name}: the text\n\n"))) is kind
        assert "the text" in str(exception_of(m.Failure(name, "the text", "worker:0", "h")))
        assert "the text" in str(to_exception(channel_messages.Failed(name, "the text")))
