"""The part of our BPF programs that looks into tunnels, as `packets.tunnels` does for the packet loop."""

from __future__ import annotations

from collections.abc import Collection

from trafficrefinery.packets import bpf
from trafficrefinery.packets.bpf import Program, TunnelProgram
from trafficrefinery.packets.describing import OverIp, OverUdp
from trafficrefinery.packets.tunnels import TUNNELS, USUAL_PORTS, kinds_read, ports_read

_UDP = 17


class Tunnels:
    """What is behind an IP header, if the configuration says that it is looked into."""

    def __init__(self, program: Program, decapsulate: Collection[str], *, is_short: bool) -> None:
        self._p, self._ports = program, ports_read(decapsulate)
        self._kinds = kinds_read(decapsulate)
        self._inside = TunnelProgram(program, self._kinds, is_short=is_short)

    def write(self, outer: int, following: int) -> None:
        """X is behind an IP header, whose protocol is in A: to `following` with the next kind in A, or to `outer`."""
        p = self._p
        self._inside.place(outer, following)
        bodies: dict[object, tuple[int, OverIp]] = {}  # by what is written
        for name, tunnel in TUNNELS.items():
            if tunnel.ip is not None and name in self._kinds:
                label, _ = bodies.setdefault(tunnel.ip.write_bpf, (p.label(), tunnel.ip))
                p.jump_if_any(tunnel.ip.protocols, label)
        udp = p.label()
        if self._ports:
            p.jump_if(bpf.IF_EQUAL, _UDP, udp)
        p.jump(outer)
        for label, ip in bodies.values():
            p.place(label)
            self._write_inside(ip)
        if self._ports:
            p.place(udp)
            self._write_udp()
        self._inside.write_end()

    def _write_inside(self, over: OverIp | OverUdp) -> None:
        if self._inside.is_short and not (over.has_room and over.write_bpf):
            self._inside.accept()
        elif over.write_bpf is None:
            self._p.jump(self._inside.outer)
        else:
            over.write_bpf(self._inside)

    def _write_udp(self) -> None:
        p, outer = self._p, self._inside.outer
        p.emit(bpf.LD_MEMORY, bpf.END)
        p.emit(bpf.SUB_X)
        p.jump_unless(bpf.IF_AT_LEAST, 16, outer)
        bodies = {name: (p.label(), over) for name in sorted(set(self._ports.values())) if (over := TUNNELS[name].udp)}
        p.load(2, 2)
        for port, name in self._ports.items():
            p.jump_if(bpf.IF_EQUAL, port, bodies[name][0])
        usual = {port for ports in USUAL_PORTS.values() for port in ports}
        p.jump_if_any(sorted(usual - set(self._ports)), outer)
        p.load(2, 0)
        for port, name in self._ports.items():
            if bodies[name][1].either_port:
                p.jump_if(bpf.IF_EQUAL, port, bodies[name][0])
        p.jump(outer)
        for label, over in bodies.values():
            p.place(label)
            self._write_inside(over)
