"""The hosts and links of the sample, as network namespaces, and the processes in them."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

NAMESPACES = ("client1", "client2", "client3", "client4", "router", "link", "servers")


def run(*command: str, namespace: str = "") -> None:
    """Run to the end; an error carries what the command said."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class Lab:
    """The namespaces and the processes in them; `close` ends all of them."""

    folder: Path
    prefix: str = "sample-"
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def create(self, clients: int, servers: list[int]) -> None:
        """Hosts .11, .12, ... on the clients' side, and one host with the given numbers on the servers' side."""
        self.close()  # what an interrupted run left behind
        for name in NAMESPACES:
            run("ip", "netns", "add", self.prefix + name)
            self.sysctl(name, "net.ipv6.conf.default.accept_dad=0")
        self.sysctl("router", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for number in range(1, clients + 1):
            self._connect_client(number)
        self.cable("router", "wan", "link", "right", 0x3001)
        self.cable("servers", "eth0", "link", "left", 0x3002)
        self.address("router", "wan", "203.0.113.1/24", "2001:db8:113::1/64")
        for number in servers:
            self.address("servers", "eth0", f"203.0.113.{number}/24", f"2001:db8:113::{number}/64")
        self.ip("servers", "-4", "route", "add", "default", "via", "203.0.113.1")
        self.ip("servers", "-6", "route", "add", "default", "via", "2001:db8:113::1")

    def _connect_client(self, number: int) -> None:
        client, ipv4, ipv6 = f"client{number}", f"192.168.20.{10 + number}", f"2001:db8:20::{10 + number}"
        self.cable("router", client, client, "eth0", 0x2000 + number)
        self.address("router", client, "192.168.20.1/32", "fe80::1/64")
        self.address(client, "eth0", f"{ipv4}/32", f"{ipv6}/128")
        self.ip(client, "-4", "route", "add", "192.168.20.1", "dev", "eth0")
        self.ip(client, "-4", "route", "add", "default", "via", "192.168.20.1")
        self.ip(client, "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        self.ip("router", "-4", "route", "add", ipv4, "dev", client)
        self.ip("router", "-6", "route", "add", ipv6, "dev", client)

    def sysctl(self, namespace: str, *settings: str) -> None:
        run("sysctl", "-q", "-w", *settings, namespace=self.prefix + namespace)

    def ip(self, namespace: str, *arguments: str) -> None:
        run("ip", *arguments, namespace=self.prefix + namespace)

    def cable(self, left: str, left_name: str, right: str, right_name: str, number: int) -> None:
        """A veth pair without offloads: what is captured is what a real wire would carry."""
        ends = ((left, left_name, 0x10000), (right, right_name, 0x20000))
        run("ip", "link", "add", left_name, "netns", self.prefix + left, "type", "veth",
            "peer", "name", right_name, "netns", self.prefix + right)  # fmt: skip
        off = [word for feature in ("rx", "tx", "sg", "tso", "gso", "gro") for word in (feature, "off")]
        for namespace, name, base in ends:
            mac = (0x020000000000 + base + number).to_bytes(6, "big").hex(":")
            self.ip(namespace, "link", "set", name, "address", mac, "mtu", "1500", "up")
            run("ethtool", "-K", name, *off, namespace=self.prefix + namespace)

    def address(self, namespace: str, interface: str, *addresses: str) -> None:
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.ip(namespace, "address", "add", address, "dev", interface, *nodad)

    def start(self, namespace: str, *command: str, log: str = "") -> subprocess.Popen[bytes]:
        with (self.folder / f"{log or namespace}.log").open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.prefix + namespace, *command], stdout=output, stderr=subprocess.STDOUT
            )
        self.started.append(process)
        return process

    def limit(self, client: str, rate_kbps: int, *, first: bool = False) -> None:
        """The rate towards a client; a queue of 150 ms before packets are dropped, as a small access router has."""
        run("tc", "qdisc", "add" if first else "change", "dev", client, "root", "tbf", "rate", f"{rate_kbps}kbit",
            "burst", "8kb", "latency", "150ms", namespace=self.prefix + "router")  # fmt: skip

    def close(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        for name in NAMESPACES:
            with contextlib.suppress(RuntimeError):
                run("ip", "netns", "del", self.prefix + name)
