"""Flow to service: rules over names and prefixes, and what DNS answers and handshakes taught."""

from .addresses import ANY_CLIENT, AddressTable, AddressTableCounters, AddressTables, lookup_address
from .dns.learning import NO_NAME, LearnedAnswer, ServiceMap, ServiceMapCounters
from .handshake_reassembly import FlowNames, FlowNamesCounters, Told
from .matching import NO_SERVICE, NameMatcher, ServiceFilter
from .names import Status
from .prefixes import Prefix, PrefixTable, PrefixTables, lookup_prefix

__all__ = [
    "ANY_CLIENT",
    "NO_NAME",
    "NO_SERVICE",
    "AddressTable",
    "AddressTableCounters",
    "AddressTables",
    "FlowNames",
    "FlowNamesCounters",
    "LearnedAnswer",
    "NameMatcher",
    "Prefix",
    "PrefixTable",
    "PrefixTables",
    "ServiceFilter",
    "ServiceMap",
    "ServiceMapCounters",
    "Status",
    "Told",
    "lookup_address",
    "lookup_prefix",
]
